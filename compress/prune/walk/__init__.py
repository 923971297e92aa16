"""Labels flow through the traced graph: which elements of which tensors are one channel.

Every index of every dimension of every parameter gets an integer label. Labels then follow the values of the graph:

- an operation that moves data is run on the labels themselves, so that concatenation, channel and pixel shuffle and
  flattening need no cases of their own (``movement.py``);
- an elementwise operation makes the labels that meet equal (``pointwise.py``);
- a product over a dimension, with a weight or of two activations, ends the labels there, and its output carries those
  of the dimensions that remain (``products.py``);
- statistics over channels are taken over those that are left (``normalization.py``);
- whatever is not known, and whatever would change the rest of the network, pins the labels that reach it: they stay.

What has become equal is removed together. By construction the network without those elements equals the network in
which they are masked: zero wherever a product or a sum consumes them, absent wherever statistics are taken.
"""

from .walker import walk

__all__ = ["walk"]
