"""A recovery method of quantization in one file: put it in ``compress/quantize/recover/`` as ``trim.py``.

It is then ``--recover trim`` on the command line, ``recover: [trim]`` in a recipe and ``Quantize(recover=["trim"])`` in
Python.
"""

from __future__ import annotations

from typing import ClassVar

import torch

from compress.core.settings import setting
from compress.quantize.recover import Need, Phase, Recovery
from compress.quantize.state import Job, State
from compress.stage import Edit


class Trim(Recovery):
    """Clip the few weights that lie far out, so that all others have finer steps."""

    deviations: float = setting(4.0, "How many standard deviations from the mean a weight may be.", gt=1, le=100)

    phase: ClassVar[Phase] = "weights"

    @property
    def needs(self) -> frozenset[Need]:
        """It looks at weights alone."""
        return frozenset()

    def apply(self, state: State, job: Job) -> State:
        """The network with its integer layers' weights clipped, in place, and an edit for each."""
        edits = []
        for layer in state.placement.products:
            weight = state.network.get_parameter(layer.weight)
            mean, reach = float(weight.mean()), self.deviations * float(weight.std(correction=0))
            with torch.no_grad():
                weight.clamp_(mean - reach, mean + reach)
            edits.append(Edit(layer.layer, "weight", "as stored", f"within {reach:.3g} of {mean:.3g}", "weights"))
        return state.after(edits)
