"""What ``compress sensitivity`` sets: whose sensitivity is measured, and how."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from .core.settings import setting
from .prune.sensitivity import Scan
from .quantize.budget.sensitivity import Around, By
from .stage import Config


class PrecisionChoice(Config):
    """Each layer alone in 4 and in 8 bits, and the accuracy that can be had for how many bytes."""

    HEADING: ClassVar[str] = "of --stage quantize"

    others_in: Around = setting("float", "What the other layers are in while one is measured.", common=True)
    sensitivity: By = setting(
        "snr",
        "What the trade-off is chosen by, as in the budget of quantize: noise at the network's output (snr), points of "
        "top-1, or the mean curvature of the loss times the squared error of rounding (hessian).",
        common=True,
    )


class SensitivityScan(Config):
    """One measurement of every layer alone, for ``prune`` or for ``quantize``."""

    stage: Literal["prune", "quantize"] = setting(
        "prune",
        "Whose sensitivity: channels of each layer go (prune), or its weights are stored in 4 and 8 bits (quantize).",
        common=True,
    )
    prune: Scan = Field(default=Scan(), description="Of prune.")
    quantize: PrecisionChoice = Field(default=PrecisionChoice(), description="Of quantize.")
