"""The zoo: one file per architecture, each citing its paper.

``build(name, **options)`` builds a network with random weights; ``names()`` lists what there is. An architecture file
registers its names with :func:`zoo.register`, and is found because it stands in this folder.
"""

from .zoo import build, names

__all__ = ["build", "names"]
