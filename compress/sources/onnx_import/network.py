"""The network of an ONNX file as a module, which runs the steps of its graph."""

from __future__ import annotations

import inspect
import keyword
import re
from collections.abc import Callable, Mapping

from torch import Tensor, nn

from ...errors import InvalidInput
from ...files.limits import TooLarge
from .operations import run
from .reading.sound import cut
from .step import Array, Call, Step, Unsupported, Value, as_tensor


class OnnxNetwork(nn.Module):
    """The network of an ONNX file; ``forward`` takes the file's inputs by position or name.

    It returns the file's output as a tensor, or its outputs as a tuple. Built by :func:`load_onnx`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.inputs: tuple[str, ...] = ()
        self.outputs: tuple[str, ...] = ()
        self.steps: tuple[Step, ...] = ()
        self.known: dict[str, Array] = {}
        self.buffer_names: dict[str, str] = {}
        self.fixed_batch: int | None = None
        self._releases: tuple[tuple[str, ...], ...] = ()

    @property
    def input_names(self) -> tuple[str, ...]:
        """The names of the inputs in the file."""
        return self.inputs

    @property
    def output_names(self) -> tuple[str, ...]:
        """The names of the outputs in the file."""
        return self.outputs

    def plan(self, steps: tuple[Step, ...], outputs: tuple[str, ...]) -> None:
        """Set what runs, and when each value is needed for the last time."""
        self.steps, self.outputs = steps, outputs
        seen = {*outputs, *self.known, *self.buffer_names}
        releases: list[tuple[str, ...]] = []
        for step in reversed(steps):
            last = tuple(dict.fromkeys(name for name in (*step.inputs, *step.outputs) if name and name not in seen))
            seen.update(last)
            releases.append(last)
        self._releases = tuple(reversed(releases))

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The outputs for ``inputs``, in the order of the file.

        Raises:
            InvalidInput: a batch other than the one that the file's shape arithmetic is tied to.
        """
        if self.fixed_batch is not None and inputs[0].shape[0] != self.fixed_batch:
            raise InvalidInput(
                f"the ONNX file fixes the batch at {self.fixed_batch}, got {inputs[0].shape[0]}; export the network "
                "with a dynamic batch"
            )
        return self.execute(inputs)

    def execute(
        self, inputs: tuple[Tensor, ...], observe: Callable[[str, Value], None] | None = None
    ) -> Tensor | tuple[Tensor, ...]:
        """The outputs for ``inputs``; ``observe`` is told the name and value of what each node yields."""
        values: dict[str, Value] = {**self.known, **dict(zip(self.inputs, inputs, strict=True))}
        for name, buffer in self.buffer_names.items():
            owner, _, attribute = buffer.rpartition(".")
            values[name] = getattr(self.get_submodule(owner), attribute)
        for step, release in zip(self.steps, self._releases, strict=True):
            module = self.get_submodule(step.layer) if step.layer else None
            try:
                call = Call(step, [_value(values, name) if name else None for name in step.inputs], module)
                results = run(call)
            except Unsupported as error:
                raise InvalidInput(f"node {cut(step.name)} ({step.operator}): {error} is not supported") from error
            except TooLarge as error:
                raise TooLarge(f"node {cut(step.name)} ({step.operator}): {error}") from error
            except Exception as error:
                error.add_note(f"in node {cut(step.name)} ({step.operator})")
                raise
            for name, result in zip(step.outputs, results, strict=False):
                values[name] = result
                if observe is not None:
                    observe(name, result)
            for name in release:
                values.pop(name, None)
        try:
            made = [_value(values, name) for name in self.outputs]
        except Unsupported as error:
            raise InvalidInput(f"outputs: {error} is not supported") from error
        tensors = tuple(value if isinstance(value, Tensor) else as_tensor(value) for value in made)
        return tensors[0] if len(tensors) == 1 else tensors


def _value(values: Mapping[str, Value], name: str) -> Value:
    if name not in values:
        raise Unsupported(f"the value {name}, a second output of its node,")
    return values[name]


def class_with_inputs(names: tuple[str, ...]) -> type[OnnxNetwork]:
    """An OnnxNetwork whose ``forward`` has these parameters, which torch.export and keyword calls look at."""
    parameters = [
        inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        for name in ("self", *_unique([_identifier(name) for name in names]))
    ]
    signature = inspect.Signature(parameters)

    def forward(self: OnnxNetwork, *args: Tensor, **kwargs: Tensor) -> Tensor | tuple[Tensor, ...]:
        return OnnxNetwork.forward(self, *signature.bind(self, *args, **kwargs).args[1:])

    forward.__signature__ = signature  # type: ignore[attr-defined]
    return type("OnnxNetwork", (OnnxNetwork,), {"forward": forward, "__doc__": OnnxNetwork.__doc__})


def _identifier(name: str) -> str:
    valid = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_") or "value"
    return f"{valid}_" if keyword.iskeyword(valid) or valid == "self" else f"n{valid}" if valid[0].isdigit() else valid


def _unique(names: list[str]) -> list[str]:
    taken: set[str] = set()
    for index, name in enumerate(names):
        candidate, count = name, 1
        while candidate in taken:
            count += 1
            candidate = f"{name}_{count}"
        taken.add(candidate)
        names[index] = candidate
    return names
