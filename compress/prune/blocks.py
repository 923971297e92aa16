"""Depth pruning: whole residual blocks go, and the network becomes shallower."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch

import torch
from pydantic import model_validator
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..core.settings import exclude, setting
from ..cost.count import cost
from ..distill import fine_tune
from ..edits import replay
from ..errors import InvalidInput
from ..graph.trace import Graph, trace
from ..stage import Config, Context, Edit, Result, Samples, Skip, Times, evaluation_copy
from ..training.loop import Training
from .channels.residual import Block, blocks, bypassed_outputs
from .scoring.block_importance import Influence, influences, left_out

TOLERANCE = 1e-6
"""Of the largest output: the shorter network computes nothing else, in the same order."""


class RemoveBlocks(Config):
    """Remove the least important residual blocks. Exactly one of ``count`` and ``macs`` is given.

    A block is a module that computes ``x + f(x)``, as in residual networks and transformers: without it the signal
    passes on its shortcut, and what is left still works (Veit et al., "Residual Networks Behave Like Ensembles of
    Relatively Shallow Networks" (2016), section 4.1). ``nn.Identity`` stands in its place. The influence of the blocks
    that remain is measured again after each removal. Blocks whose shortcut has a layer, or that change the shape, stay.
    """

    count: int | None = setting(None, "Blocks to remove.", common=True, ge=1, le=2**20)
    macs: Times | None = setting(None, "Divide the multiply-adds by at least this, as 1.5.", unit="times", common=True)
    criterion: Influence | None = setting(
        None,
        "What makes a block important: the validation accuracy lost without it, how far its output points away from "
        'its input (similarity; Men et al., "ShortGPT", 2024, equation 1), or what it adds relative to its input '
        "(magnitude). By default accuracy, and similarity where there are no labelled validation samples.",
        common=True,
    )
    samples: Samples = setting(512, "Of the data, that the blocks are measured on.")
    exclude: tuple[str, ...] = exclude("Blocks that stay, by name or pattern (layer1.*).")
    training: Training | None = setting(None, "Fine-tuning afterwards, distilling from a teacher if any.")

    @model_validator(mode="after")
    def _one_target(self) -> RemoveBlocks:
        if (self.count is None) == (self.macs is None):
            raise ValueError("give exactly one of `count` and `macs`")
        return self

    def apply(self, model: nn.Module, context: Context) -> Result:
        """The shallower network, of the same class and in evaluation mode, with the blocks that went and those that
        could not.

        Raises:
            InvalidInput: there are no such blocks or too few, ``macs`` is out of reach, a pattern of ``exclude``
                matches nothing, or there is no data where it is needed.
        """
        context = context.of(model)
        self._check_data(context, model)
        shorter = evaluation_copy(model)
        graph = trace(evaluation_copy(model), context.example_inputs)
        removable, skipped = self._removable(graph, context)
        removed = self._choose(graph, removable, skipped, context)
        changes = tuple(Edit(block.name, "module", block.kind, "Identity", "module") for block in removed)
        replay(shorter, changes)
        wrong = difference(shorter, graph, removed, context.example_inputs)
        if wrong is not None:
            names = ", ".join(block.name for block in removed)
            raise InvalidInput(f"remove_blocks: without {names} the network {wrong}; keep one of them with exclude")
        history: list[dict[str, float]] = []
        if self.training is not None and context.data is not None:
            history = fine_tune(shorter, context, self.training, activity="fine-tune", checkpoint="remove_blocks.ckpt")
            shorter.eval()
            changes = (*changes, Edit("", "weights", None, f"{self.training.epochs} epochs", "weights"))
        return Result(shorter, changes, tuple(skipped), history=tuple(history))

    def _check_data(self, context: Context, model: nn.Module) -> None:
        if self.training is not None and context.data is None:
            raise InvalidInput("remove_blocks: training is set, and there is no data to train on; give data")
        if self.criterion == "accuracy" and not _labelled(context, model):
            raise InvalidInput(
                "remove_blocks: criterion accuracy needs labelled validation samples; give data, or use similarity"
            )

    def _removable(self, graph: Graph, context: Context) -> tuple[dict[str, Block], list[Skip]]:
        """The blocks that may go, each tried alone, and all others with the reason."""
        names = [name for name, _ in graph.model.named_modules() if name]
        for pattern in self.exclude:
            if not any(fnmatch(name, pattern) for name in names):
                raise InvalidInput(
                    f"remove_blocks: exclude {pattern!r} matches no layer; layers are named like {names[:3]}"
                )
        read, reasons = blocks(graph)
        removable, skipped = {}, list(reasons)
        trial = evaluation_copy(graph.model)
        for block in read:
            wrong = None
            if any(fnmatch(block.name, pattern) for pattern in self.exclude):
                wrong = "excluded"
            else:
                with left_out(trial, block.name):
                    problem = difference(trial, graph, [block], context.example_inputs)
                    wrong = f"without it the network {problem}" if problem else None
            if wrong is None:
                removable[block.name] = block
            else:
                skipped.append(Skip(block.name, wrong))
        if not removable:
            explanation = (
                "; ".join(f"{s.layer or 'the network'}: {s.reason}" for s in skipped) or "it has no residual sums"
            )
            raise InvalidInput(f"remove_blocks: {type(graph.model).__name__} has no block to remove: {explanation}")
        return removable, skipped

    def _choose(
        self, graph: Graph, removable: Mapping[str, Block], skipped: Iterable[Skip], context: Context
    ) -> list[Block]:
        """The blocks to remove, in the order of the network."""
        if self.count is not None and self.count > len(removable):
            remaining = "".join(f"; {skip.layer or 'the network'} stays: {skip.reason}" for skip in skipped)
            raise InvalidInput(
                f"remove_blocks: count={self.count}, and only {len(removable)} can be removed "
                f"({', '.join(removable)}){remaining}"
            )
        if self.macs is not None:
            costs = _Costs.of(graph, removable, context)
            if costs.ratio(removable) < self.macs:
                raise InvalidInput(
                    f"remove_blocks: macs={self.macs:g} is out of reach: at most {costs.ratio(removable):.2f} times "
                    f"fewer without all of {', '.join(removable)}"
                )
        criterion = self.criterion or ("accuracy" if _labelled(context, graph.model) else "similarity")
        model, left, gone = evaluation_copy(graph.model), list(removable), set[str]()
        while costs.ratio(gone) < self.macs if self.macs is not None else len(gone) < (self.count or 0):
            scores = influences(model, left, criterion, context, self.samples)
            least_name = min(left, key=scores.__getitem__)
            replay(model, [Edit(least_name, "module", removable[least_name].kind, "Identity", "module")])
            left.remove(least_name)
            gone.add(least_name)
        return [block for name, block in removable.items() if name in gone]


def difference(shorter: nn.Module, graph: Graph, removed: Sequence[Block], inputs: tuple[Tensor, ...]) -> str | None:
    """What tells the network without blocks from the traced one in which they are bypassed, or None."""
    expected = bypassed_outputs(graph, {block.name: block for block in removed}, inputs)
    try:
        with torch.no_grad():
            outputs = [leaf for leaf in tree_leaves(shorter(*inputs)) if isinstance(leaf, Tensor)]
    except Exception as error:  # noqa: BLE001 - the user's code may raise anything
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        return f"fails ({first_line})"
    same = len(outputs) == len(expected) and all(map(_close, outputs, expected))
    return None if same else "computes something else than with it bypassed"


def _close(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape:
        return False
    scale = float(b.abs().max()) if b.numel() else 1.0
    return bool(torch.allclose(a, b, rtol=0.0, atol=TOLERANCE * max(scale, 1e-12), equal_nan=True))


def _labelled(context: Context, model: nn.Module) -> bool:
    """Whether the network can be scored against labels."""
    task = context.task_of(model)
    scored = task.score is not None and not task.self_supervised
    return scored and context.data is not None and "validation" in context.data.splits


@dataclass(frozen=True)
class _Costs:
    """Multiply-adds of a network and of its blocks."""

    total: int
    blocks: Mapping[str, int]

    @classmethod
    def of(cls, graph: Graph, names: Iterable[str], context: Context) -> _Costs:
        counted = cost(graph, context.example_inputs)
        inside = {
            name: sum(layer.macs for layer in counted.layers if f"{layer.layer}.".startswith(f"{name}."))
            for name in names
        }
        return cls(counted.macs, inside)

    def ratio(self, gone: Iterable[str]) -> float:
        """How many times fewer there are without the blocks ``gone``."""
        return self.total / max(1, self.total - sum(self.blocks[name] for name in gone))
