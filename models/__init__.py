"""The zoo: one file per architecture, each citing its paper.

``build(name, **options)`` builds a network with random weights, ``input_shape(name, **options)`` tells the images that
it takes, and ``names()`` lists what there is. An architecture file registers its names with :func:`zoo.register`; it is
found because it stands in this folder.

One rule for sizes of images: a name alone is the form for 32x32 images and 10 classes, and ``small_images=False`` is
the form for 224x224 images that the paper describes (with ``num_classes=1000`` it has the published size). Networks
that papers describe for 32x32 images only (``resnet20`` to ``resnet110``, ``wrn_16_4``, ``wrn_28_10``) have no such
option, and neither has ``resnet18_cifar``, which is ``resnet18`` for 32x32 images whatever the default. Detectors
(``detectors()``) have ``image_size`` instead, one side, or height and width as ``192x256``.
"""

from .zoo import build, detectors, input_shape, names, options

__all__ = ["build", "detectors", "input_shape", "names", "options"]
