"""ONNX Runtime's own post-training quantization, in the settings that could be its best on a CPU."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

U8S8 = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
SETTINGS: Mapping[str, dict[str, Any]] = {
    "QDQ U8S8 per channel": {**U8S8, "quant_format": QuantFormat.QDQ, "per_channel": True},
    "QDQ U8S8 per tensor": {**U8S8, "quant_format": QuantFormat.QDQ, "per_channel": False},
    "QOperator U8S8 per channel": {**U8S8, "quant_format": QuantFormat.QOperator, "per_channel": True},
    "QDQ S8S8 per channel": {
        "activation_type": QuantType.QInt8,
        "weight_type": QuantType.QInt8,
        "quant_format": QuantFormat.QDQ,
        "per_channel": True,
    },
    "QDQ U8U8 per tensor": {
        "activation_type": QuantType.QUInt8,
        "weight_type": QuantType.QUInt8,
        "quant_format": QuantFormat.QDQ,
        "per_channel": False,
    },
}
METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}


class _Samples(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, name: str, samples: Iterable[NDArray[np.float32]]) -> None:
        self.samples: Iterator[dict[str, NDArray[np.float32]]] = iter([{name: x} for x in samples])

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        return next(self.samples, None)


def prepared(file: Path, folder: Path) -> Path:
    """The float file as ONNX Runtime's documentation wants it before quantization: shapes inferred, optimized."""
    target = folder / f"{file.stem}.prepared.onnx"
    quant_pre_process(str(file), str(target), skip_symbolic_shape=True)
    return target


def quantized(
    file: Path, target: Path, samples: Iterable[NDArray[np.float32]], setting: str, method: str = "minmax"
) -> Path:
    """``target``, the prepared ``file`` quantized on ``samples`` (each a batch)."""
    name = onnx.load(str(file)).graph.input[0].name
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    reader = _Samples(name, samples)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it tells of its histograms there
            quantize_static(str(file), str(target), reader, calibrate_method=METHODS[method], **SETTINGS[setting])
    finally:
        logger.setLevel(level)
    return target
