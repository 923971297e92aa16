"""How near each output of a quantized network is to that of the network that it was made from."""

from __future__ import annotations

import torch
from torch.utils._pytree import tree_leaves

from ..errors import InvalidInput
from ..graph.interface import names_of
from ..graph.modes import evaluating
from ..integers.plan import Plan
from ..integers.simulate import simulated
from ..quantize.budget.sensitivity import batches_of, scored_split
from ..report.schema import OutputParity
from ..sources.load import Network
from ..stage import Context
from ..tasks.noise import Noise

SAMPLES = 128
"""Of the validation split, or of the calibration split where there is none."""

LEAST_SNR_DB = 10.0
"""Of the channels that the largest values of an output drown; below this a tenth of them is noise, which is told."""


def outputs_apart(before: Network, planned: Plan, context: Context) -> tuple[OutputParity, ...]:
    """The signal to noise ratio of each output, and of the part of it that its largest values would drown.

    None where there are no samples, or they are of several shapes.
    """
    rounded, noise = simulated(planned), Noise()
    try:
        split, _ = scored_split(context)
        with torch.no_grad(), evaluating(before.model):
            for inputs, _ in batches_of(split, context, SAMPLES):
                mine, theirs = (_tensors(network(*inputs)) for network in (rounded, before.model))
                noise.see(mine, theirs)
    except InvalidInput:
        return ()
    names = names_of(planned.graph).outputs
    if len(names) != len(noise.outputs):
        return ()
    return tuple(
        OutputParity(
            name=name,
            snr_db=output.snr_db,
            part_snr_db=output.worst_snr_db if len(output.of_parts) > 1 else None,
        )
        for name, output in zip(names, noise.outputs, strict=True)
    )


def warning(name: str, outputs: tuple[OutputParity, ...]) -> str | None:
    """One line on the first output of which a part is lost, though over the whole it does not show; None without one.

    >>> warning("quantize", (OutputParity(name="all", snr_db=40.0, part_snr_db=2.0),))[:65]
    'quantize: output all: its channels of small values have 2.0 dB of'
    """
    for output in outputs:
        part = output.part_snr_db
        if part is not None and part < LEAST_SNR_DB:
            return (
                f"{name}: output {output.name}: its channels of small values have {part:.1f} dB of signal to noise, "
                f"the whole {output.snr_db:.1f} dB: return them apart, or give bits back (--max-drop)"
            )
    return None


def line(output: OutputParity) -> str:
    """How near an output is, in words: "output boxes: 35.2 dB of signal to noise"."""
    assert output.snr_db is not None, "it was measured"
    part = "" if output.part_snr_db is None else f", its channels of small values {output.part_snr_db:.1f} dB"
    return f"output {output.name}: {output.snr_db:.1f} dB of signal to noise{part}"


def _tensors(outputs: object) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, torch.Tensor)]
