"""What gives quantized networks their accuracy back without labels: one method a file, found by its name.

They run in the order of Nagel et al., "A White Paper on Neural Network Quantization" (2021), section 3, whatever order
they are listed in.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from ...core.parts import Kind, Part
from ..state import Job, State

Phase = Literal["statistics", "weights", "rounding", "biases"]
"""When a method runs: before batch norms are folded, before ranges are measured, when weights get their integers, and
after that.
"""

Need = Literal["samples", "moments", "biases", "unrounded"]
"""What a method needs: calibration samples, what batch norms tell of channels, a bias in every layer, or the network
with the weights that it had before roundings were learnt.
"""


class Recovery(Part):
    """A method that makes a network easier to round, or mends what rounding does to it."""

    phase: ClassVar[Phase]
    rank: ClassVar[int] = 0
    """Its place among the methods of its phase."""

    @property
    def needs(self) -> frozenset[Need]:
        """What the other steps have to keep or give for it."""
        return frozenset({"samples"})

    def apply(self, state: State, job: Job) -> State:
        """The network as this method leaves it, with the account of what it did and what it left alone.

        Raises:
            InvalidInput: the samples do not fit the network.
        """
        raise NotImplementedError


RECOVERIES = Kind("recovery method", __name__, Recovery, verb="apply")
AnyRecovery = Annotated[Recovery, RECOVERIES]
"""A field's type: a method's name, a mapping from it to its settings, or an object."""
