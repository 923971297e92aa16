"""Weights that a network got outside of the stages: what becomes of its history and of its encodings."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import InvalidInput
from ..graph.parametrized import bake
from ..graph.trace import named_tensors
from ..integers.encoding import Encoding
from ..quantize.ranges.refit import refit
from ..sources import artifact
from ..sources.load import Network
from ..sources.weights import OtherNetwork, load_weights

_LOG = logging.getLogger(__name__)


def filled(network: Network, path: Path, *, trust: bool = False, edited_in: Path | None = None) -> Network:
    """The network with the weights of a file, which are put into its model, and tell of themselves in its history.

    Args:
        trust: allow a pickle that may run code of its author's.
        edited_in: the artifact that the network was read from, for messages.

    Raises:
        InvalidInput: as :func:`compress.sources.weights.load_weights`, or as :func:`with_new_weights`.
    """
    imports = Path(network.source.name).parent if network.source.kind == "file" else None
    try:
        file = load_weights(network.model, path, trust=trust, imports=imports)
    except OtherNetwork as error:
        if edited_in is None:
            raise
        raise InvalidInput(
            f"{error}; the network of {edited_in} has the shapes that its stages left: train what "
            f'compress.open_network("{edited_in}").model is, and give its state_dict()'
        ) from error
    bake(network.model)
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    return with_new_weights(network, f"weights {path}", {"file": str(path), "sha256": digest})


def with_new_weights(network: Network, where: str, config: Mapping[str, Any]) -> Network:
    """The network, where its weights are not those that its last stage left, with a record of them in its history.

    The ranges of activations stay. Those of weights are measured anew by :func:`compress.quantize.ranges.refit.refit`.

    Args:
        where: the weights are from, for messages.
        config: of the record.

    Raises:
        InvalidInput: a weight is stored in few levels, and has other values now.
    """
    digest = artifact.weights_digest(network.model)
    if network.lineage and network.lineage[-1].get("weights") == digest:
        return network
    made: dict[str, Any] = {"stage": "weights", "config": dict(config), "weights": digest}
    if network.encodings and network.target is not None:
        made["target"] = network.target
    return replace(network, lineage=(*network.lineage, made), encodings=_refitted(network, where))


def _refitted(network: Network, where: str) -> dict[str, Encoding]:
    tensors = dict(named_tensors(network.model))
    encodings = dict(network.encodings)
    for name in encodings.keys() & tensors.keys():
        try:
            encodings[name] = refit(encodings[name], tensors[name], name)
        except InvalidInput as error:
            raise InvalidInput(
                f"{where}: {error}; give the weights to the artifact before that stage, and apply the stage again"
            ) from error
    activations = len(encodings.keys() - tensors.keys())
    if activations:
        _LOG.warning(
            "%s: the ranges of weights are measured anew, and %d of activations are those of the weights before; where "
            "training changed much, quantize again with --data",
            *(where, activations),
        )
    return encodings
