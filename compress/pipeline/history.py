"""What a stage adds to the history of a network."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pydantic import BaseModel

from ..sources import artifact
from ..sources.load import Network
from ..stage import Result, Stage


def record_of(stage: Stage | None, name: str) -> dict[str, Any]:
    """The record of a stage in the history: its name and, where it has them, its settings."""
    return {"stage": name, "config": stage.model_dump(mode="json") if isinstance(stage, BaseModel) else {}}


def advanced(network: Network, result: Result, made: dict[str, Any]) -> Network:
    """What a stage made of ``network``, and ``made`` with the digest of its weights at the end of its history."""
    structural = tuple(e for e in result.edits if e.kind not in ("precision", "weights"))
    made |= {"weights": artifact.weights_digest(result.model)}
    if result.target is not None:
        made["target"] = result.target
    if result.learnt:
        made["learnt"] = list(result.learnt)
    if result.measured:
        made["measured"] = [vars(measured) for measured in result.measured]
    return replace(
        network,
        model=result.model,
        edits=network.edits + structural,
        lineage=(*network.lineage, made),
        encodings=result.encodings or ({} if structural or result.history else network.encodings),
    )
