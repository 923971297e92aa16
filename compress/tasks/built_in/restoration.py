"""The task of restoring images, as super-resolution and denoising do: outputs and labels are images (N, C, H, W).

Labels tell their range: bytes are pixels from 0 to 255, which become 0 to 1 as those of inputs do; floats are pixels
from 0 to 1 already.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import l1_loss

from ..labelled import Labelled
from ..metric import MetricScore
from ..reading import Reading
from ..task import Batch, Outputs, Task
from ..tensors import same_shape, unfit

SMALLEST_SIDE = 6
"""Of images, in pixels: the window of the structural similarity, of 11, goes on over their edges by reflection."""


def task(reading: Reading) -> Task:
    """The task: the mean absolute difference of pixels, to labels or a teacher, and two scores, means over images.

    ``PSNR`` is the peak signal to noise ratio in dB, ``SSIM`` the structural similarity (Wang et al., "Image quality
    assessment: from error visibility to structural similarity", 2004); what lies outside 0 to 1 is clipped for them.
    """
    labelled = Labelled(reading, _require)
    pair = partial(_scored, labelled)

    def loss(outputs: Outputs, batch: Batch) -> Tensor:
        return l1_loss(*_pair(labelled, outputs, batch, "training"))

    return Task(
        name="restoration",
        inputs=reading.inputs,
        loss=loss,
        match=lambda student, teacher: l1_loss(*same_shape(student, teacher)),
        scores={
            "PSNR": lambda: MetricScore(lambda _: _psnr(), pair),
            "SSIM": lambda: MetricScore(lambda _: _ssim(), pair),
        },
        unit=" dB",
        fits=labelled.fits,
        placed=True,
    )


def _pair(labelled: Labelled, outputs: Outputs, batch: Batch, where: str) -> tuple[Tensor, Tensor]:
    """Images, on the scale 0 to 1."""
    output, labels = labelled.pair(outputs, batch, where)
    return output.float(), labels.float() / (255 if labels.dtype == torch.uint8 else 1)


def _scored(labelled: Labelled, outputs: Outputs, batch: Batch) -> tuple[Tensor, Tensor]:
    images, labels = _pair(labelled, outputs, batch, "score")
    return images.detach().cpu(), labels.cpu()


def _psnr() -> Any:
    from torchmetrics.image import PeakSignalNoiseRatio

    return PeakSignalNoiseRatio(data_range=(0.0, 1.0), reduction="elementwise_mean", dim=(1, 2, 3))


def _ssim() -> Any:
    from torchmetrics.image import StructuralSimilarityIndexMeasure

    return StructuralSimilarityIndexMeasure(data_range=(0.0, 1.0))


def _require(output: Tensor, labels: Tensor, where: str) -> None:
    expected = "the output and labels (N, C, H, W) of the same size, bytes or floats from 0 to 1 (restoration)"
    if output.ndim != 4 or output.shape[1:] != labels.shape[1:] or min(output.shape[2:]) < SMALLEST_SIDE:
        raise unfit(where, f"{expected}, with sides of {SMALLEST_SIDE} pixels at least", output, labels)
    if labels.dtype == torch.uint8:
        return
    if not labels.is_floating_point() or bool((labels < 0).any()) or bool((labels > 1).any()):
        raise unfit(where, f"{expected}; they go from {labels.min():g} to {labels.max():g}", output, labels)
