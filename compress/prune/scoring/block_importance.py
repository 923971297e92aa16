"""How much each residual block matters: what it changes of its input, or what the network loses without it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.linalg import vector_norm

from ...data import Split
from ...data.batch import count_of
from ...stage import Context
from ...tasks.scoring import score_of
from ...tasks.task import Batch

Influence = Literal["similarity", "magnitude", "accuracy"]


def block_influence(x: Tensor, y: Tensor) -> Tensor:
    """1 minus the cosine of the input ``x`` and the output ``y`` of a block, one value for each vector, flat.

    Men et al., "ShortGPT" (2024), equation 1, without the mean. The vectors are the tokens of (N, L, C), and whole
    samples otherwise. A block that only scales its input has 0, one that turns it around 2.
    """
    x, y = _vectors(x), _vectors(y)
    norms: Tensor = vector_norm(x, dim=1) * vector_norm(y, dim=1)
    return 1 - (x * y).sum(1) / norms.clamp_min(1e-12)


def relative_change(x: Tensor, y: Tensor) -> Tensor:
    """``||y - x|| / ||x||``, one value for each vector as in :func:`block_influence`: what the residual branch adds."""
    x, y = _vectors(x), _vectors(y)
    change: Tensor = vector_norm(y - x, dim=1) / vector_norm(x, dim=1).clamp_min(1e-12)
    return change


def _vectors(x: Tensor) -> Tensor:
    return (x.flatten(0, 1) if x.ndim == 3 else x.flatten(1)).double()


@contextmanager
def left_out(model: nn.Module, name: str) -> Iterator[nn.Module]:
    """``model`` with an identity in the place of the module ``name``, which comes back afterwards."""
    parent_name, _, own = name.rpartition(".")
    parent = model.get_submodule(parent_name)
    module = getattr(parent, own)
    setattr(parent, own, nn.Identity())
    try:
        yield model
    finally:
        setattr(parent, own, module)


def influences(
    model: nn.Module, names: Iterable[str], criterion: Influence, context: Context, samples: int
) -> dict[str, float]:
    """The influence of each block called ``names``; the lower, the less is lost without it.

    ``accuracy`` is what the network loses of the task's score on the first validation samples without the block. The
    other two are means over the calibration samples, or over the example inputs where there is no data.

    Raises:
        InvalidInput: ``accuracy`` without validation samples that the task can score.
    """
    names = list(names)
    if criterion != "accuracy":
        measure = block_influence if criterion == "similarity" else relative_change
        return _means(model, names, measure, list(_inputs(context, samples)))
    assert context.data is not None, "the stage has looked for data"
    split, task = First(context.data.split("validation"), samples), context.task_of(model)
    sign = 1 if task.higher_is_better else -1
    whole = score_of(task, model, split)
    losses = {}
    for done, name in enumerate(names):
        context.progress("measure blocks", done, len(names), name)
        with left_out(model, name):
            losses[name] = sign * (whole - score_of(task, model, split))
    context.progress("measure blocks", len(names), len(names))
    return losses


def _means(
    model: nn.Module,
    names: Iterable[str],
    measure: Callable[[Tensor, Tensor], Tensor],
    batches: Iterable[tuple[Tensor, ...]],
) -> dict[str, float]:
    values: dict[str, list[Tensor]] = {name: [] for name in names}
    block_inputs: dict[str, Tensor] = {}

    def before(name: str) -> Callable[..., None]:
        def keep(_: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
            (x,) = (*args, *kwargs.values())
            block_inputs[name] = x.clone()  # the block may work in place

        return keep

    def after(name: str) -> Callable[..., None]:
        def compare(_: nn.Module, _args: tuple[Any, ...], y: Tensor) -> None:
            values[name].append(measure(block_inputs.pop(name), y).cpu())

        return compare

    hooks = []
    for name in values:
        module = model.get_submodule(name)
        hooks.append(module.register_forward_pre_hook(before(name), with_kwargs=True))
        hooks.append(module.register_forward_hook(after(name)))
    try:
        with torch.no_grad():
            for batch in batches:
                model(*batch)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: float(torch.cat(parts).mean()) for name, parts in values.items()}


def _inputs(context: Context, samples: int) -> Iterator[tuple[Tensor, ...]]:
    if context.data is None or "calibration" not in context.data.splits:
        yield context.example_inputs
        return
    split = First(context.data.split("calibration"), samples)
    for batch in split.batches(64):
        yield context.read(batch)


@dataclass(frozen=True)
class First:
    """The first ``count`` samples of a split, to the next whole batch."""

    split: Split
    count: int

    def __len__(self) -> int:
        return min(self.count, len(self.split))

    def batches(self, batch_size: int, **options: Any) -> Iterator[Batch]:
        """The split's own batches, until there are enough samples."""
        seen = 0
        for batch in self.split.batches(min(batch_size, self.count), **options):
            if seen >= self.count:
                return
            yield batch
            seen += count_of(batch)
