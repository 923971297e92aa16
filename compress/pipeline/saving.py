"""A network that a program has at hand, written as the artifact that every command takes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..errors import InvalidInput
from ..sources import artifact
from ..sources.load import Network
from ..sources.weights import require_finite
from ..stage import Result, Stage, evaluation_copy
from .history import advanced, record_of
from .new_weights import with_new_weights


def save(
    made: Network | Result,
    folder: Path | str,
    *,
    of: Network | None = None,
    by: Stage | None = None,
    overwrite: bool = False,
) -> Network:
    """Write a network as an artifact folder, whole or not at all; :func:`compress.open_network` opens it again.

    Weights that ``made.model`` got since its last stage, as in a training loop of one's own, are saved with it: the
    history tells their digest, and where the network is quantized the ranges of its weights are measured anew, while
    those of activations stay. The model may be on any device, and stays there, as it is.

    Args:
        made: a network, or what a stage returned.
        folder: its place.
        of: for a ``Result``: the network that the stage was applied to, whose source and edits it goes on from.
        by: for a ``Result``: the stage, for the history.
        overwrite: replace an artifact that is there.

    Returns:
        The network as it was saved, on the processor, in evaluation mode.

    Raises:
        InvalidInput: the folder is there already, a ``Result`` comes without ``of``, a value is not finite, the model
            has other layers or shapes than its source and edits make, or its weights are stored in few levels and have
            other values now.
    """
    if isinstance(made, Result):
        if of is None:
            raise InvalidInput(
                f"save {folder}: a Result does not tell what builds its network; give the network that the stage was "
                'applied to, as of=compress.open_network("net.py:build")'
            )
        made = advanced(of, made, record_of(by, type(by).__name__ if by is not None else "stage"))
    network = replace(made, model=evaluation_copy(made.model).cpu())
    require_finite(network.model, f"save {folder}")
    network = with_new_weights(network, f"save {folder}", {})
    artifact.save(network, Path(folder), overwrite=overwrite)
    return network
