"""CIFAR-10 as an image folder (train/<class>/*, test/<class>/*), and the networks that were trained on it here."""

from __future__ import annotations

from pathlib import Path

from compress.data import Data, DataConfig
from compress.data import load as load_data
from compress.pipeline import open_network
from compress.sources.load import Network

CHECKPOINTS = Path(__file__).resolve().parent.parent / "checkpoints"
NETWORKS = {
    "resnet20": ("resnet20", "resnet20_cifar10.safetensors"),
    "mobilenet_v2": ("mobilenet_v2:width=0.35", "mobilenet_v2_cifar10.safetensors"),
    "shufflenet_v2": ("shufflenet_v2_x1_0:width=0.5", "shufflenet_v2_cifar10.safetensors"),
}
"""By a short name: a network of the zoo, and the file of its weights in ``CHECKPOINTS``."""


def cifar10(folder: Path | str, seed: int = 0) -> Data:
    """Return the data, with a twentieth of the training images for validation and 512 for calibration."""
    return load_data(DataConfig(source=str(folder), validation=0.05, calibration=512), seed)


def trained(name: str = "resnet20", data: Data | None = None) -> Network:
    """Return a network with its trained weights; without data, its example input is one image of 32x32."""
    specification, weights = NETWORKS[name]
    if data is None:
        return open_network(specification, weights=CHECKPOINTS / weights, input_shapes=((1, 3, 32, 32),))
    return open_network(specification, weights=CHECKPOINTS / weights, data=data)
