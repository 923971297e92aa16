"""How weights and scales are trained as they will be rounded, in the stage Quantize."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from ...core.settings import setting
from ...stage import Edit
from ...training.loop import Training
from ..state import Job, State
from .aware_training import Learned, train_quantized


class AwareTraining(Training):
    """Training with rounded values. Batch norms are folded by then, so that steps have to be small; schemes of few
    levels keep batch norms while they train, and bear larger ones: 1e-3, where nothing else is asked for.
    """

    method: Learned = setting(
        "lsq",
        "What is learnt besides weights: scales (lsq), zero points too (lsq+), or scales and clips of ReLUs (pact).",
        flag="--train-method",
    )
    optimizer: Literal["sgd", "adamw"] = setting("adamw", "How weights follow from gradients.")
    learning_rate: float = setting(
        5e-5,
        "The highest; where weights have few levels, 1e-3 if it is left out.",
        short="--lr",
        common=True,
        gt=0,
        le=1e4,
    )
    weight_decay: float = setting(0.0, "Of weights, not of biases and scales.", ge=0, le=1e4)
    precision: Literal["auto", "fp32", "bf16"] = setting(
        "fp32", "Of training; bf16 rounds products as coarsely as 8-bit integers do."
    )

    def fit_rounded(self, state: State, job: Job) -> State:
        """With weights and encodings that were learnt together.

        Raises:
            InvalidInput: there is no data to train on, or the loss is not finite.
        """
        network, encodings = state.network, state.encodings
        done = train_quantized(network, encodings, self, job.context, learned=self.method, target=job.grid)
        edit = Edit("", "weights", None, f"{len(done.history)} epochs", "weights")
        return state.after([edit], network=done.model, encodings=done.encodings, history=tuple(done.history))


def _own_defaults(value: Any) -> Any:
    """What is set of another training, with the defaults of this one for all that is not."""
    if isinstance(value, Training) and not isinstance(value, AwareTraining):
        return {name: getattr(value, name) for name in value.model_fields_set}
    return value


AnyTraining = Annotated[AwareTraining, BeforeValidator(_own_defaults)]
"""A field's type: what is left out of any training has the defaults of :class:`AwareTraining`."""
