"""What decides a result besides the network: the machine and the versions of packages."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from ..core.arithmetic import precision_on, training_device
from ..siblings import runtimes


def machine() -> dict[str, Any]:
    """Facts of this machine, for reports: those of its system, and how torch trains here."""
    return {
        **asdict(runtimes.sensors.conditions.conditions()),
        "threads_of_torch": torch.get_num_threads(),
        "training_precision": precision_on(training_device()),
    }


def versions() -> dict[str, str]:
    """Versions of the packages that decide a result."""
    import onnx
    import onnxruntime

    return {module.__name__: module.__version__ for module in (torch, onnx, onnxruntime, np)}
