"""From the nodes of a file to the steps and modules of a network."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import ModelProto
from torch import Tensor, nn

from ...errors import InvalidInput
from ...files.limits import Measured, require_memory
from .layers import LAYERS, VALUES
from .network import OnnxNetwork, class_with_inputs
from .operations import FUNCTIONS, KNOWN_INPUTS, ON_SHAPES
from .patterns import recognized
from .reading.read import (
    Dimensions,
    array_of,
    attributes_of,
    constant_of,
    dimensions_of,
    graph_inputs,
    label_of,
    opset_of,
)
from .reading.sound import short, type_name
from .step import DTYPES, Array, Attribute, Call, Step, Unsupported, Value, as_tensor, at_node

_MOST_PARTS = 10_000
_DEEPEST = 40  # dots of a name that are modules within modules
_WEIGHT = re.compile(r"(.+)[./](weight|kernel|w)(:0)?")


@dataclass
class Builder:
    """Turns the nodes of one model into steps and modules."""

    path: Path
    model: ModelProto
    constants: dict[str, Array] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    """The initializer that a constant was derived from, for naming."""
    sequences: dict[str, tuple[str, ...]] = field(default_factory=dict)
    shared: dict[tuple[int, str], tuple[Array, nn.Parameter]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    stored: int = 0
    """Bytes of the weights in the file."""
    folded: int = 0
    """Bytes of what was computed of them."""

    def build(self) -> OnnxNetwork:
        """The network, in evaluation mode."""
        graph = self.model.graph
        self.network = class_with_inputs(tuple(name for name, _, _ in graph_inputs(self.model)))()
        self.network.inputs = tuple(name for name, _, _ in graph_inputs(self.model))
        for name, element, _ in graph_inputs(self.model):
            if element not in DTYPES:
                raise InvalidInput(
                    f"{self.path}: the input {short(name)} of type {type_name(element)} cannot be imported"
                )
        if not graph.output or not self.network.inputs:
            raise InvalidInput(f"{self.path}: has {len(self.network.inputs)} inputs and {len(graph.output)} outputs")
        self.shapes, self.elements = self._inferred()
        for tensor in graph.initializer:
            with at_node(f"{self.path}: ", tensor.name, "initializer"):
                self.constants[tensor.name] = array_of(tensor)
        self.stored = sum(array.nbytes for array in self.constants.values())
        self.origins = {name: name for name in self.constants}
        outputs = tuple(value.name for value in graph.output)
        steps = []
        ranks = {name: len(sizes) for name, sizes in self.shapes.items()}
        for step in recognized(list(self._unfolded()), self.constants, outputs, ranks):
            with at_node(f"{self.path}: ", step.name, step.operator):
                layer = self._layer(step)
            steps.append(replace(step, layer=layer, inputs=_values_of(step)) if layer else step)
        self._keep_constants(steps, outputs)
        self.network.plan(tuple(steps), outputs)
        self.network.eval()
        self._observe_shapes(steps)
        for index, step in enumerate(steps):
            with at_node(f"{self.path}: ", step.name, step.operator):
                steps[index] = self._relative(step)
        used = {*outputs, *(name for step in steps for name in step.inputs)}
        self.network.known = {name: array for name, array in self.network.known.items() if name in used}
        self.network.plan(tuple(steps), outputs)
        return self.network

    def _observe_shapes(self, steps: list[Step]) -> None:
        """Run the network to learn shapes that reshapes need and that inference did not find."""
        reshaped = [step.inputs[0] for step in steps if step.operator == "Reshape"]
        declared = graph_inputs(self.model)
        if all(None not in self.shapes.get(name, (None,)) for name in reshaped):
            return
        if any(dimensions is None or None in dimensions for _, _, dimensions in declared):
            return

        def observe(name: str, value: Value) -> None:
            if isinstance(value, Tensor):
                self.shapes[name] = tuple(value.shape)

        try:
            with Measured():
                zeros = [
                    torch.zeros(tuple(d or 1 for d in dimensions or ()), dtype=DTYPES[element])
                    for _, element, dimensions in declared
                ]
            with Measured(), torch.no_grad():
                self.network.execute(tuple(zeros), observe)
        except Exception:  # noqa: BLE001 - verifying runs it again, and reports
            return

    def _inferred(self) -> tuple[dict[str, Dimensions], dict[str, int]]:
        """Sizes and element types of the values for which they follow from the file."""
        try:
            graph = onnx.shape_inference.infer_shapes(self.model, data_prop=True).graph
        except Exception:  # noqa: BLE001 - shapes make better networks, and none are needed
            graph = self.model.graph
        values = (*graph.input, *graph.value_info, *graph.output)
        sizes_of = {value.name: dimensions_of(value.type) for value in values}
        shapes = {name: dimensions for name, dimensions in sizes_of.items() if dimensions is not None}
        return shapes, {value.name: value.type.tensor_type.elem_type for value in values}

    def _unfolded(self) -> Iterator[Step]:
        """Steps for the nodes that depend on the inputs; what does not is computed now, into ``constants``."""
        opset = opset_of(self.model)
        for index, node in enumerate(self.model.graph.node):
            label = label_of(node, index)
            with at_node(f"{self.path}: ", label, node.op_type):
                attributes = attributes_of(node)
                if node.op_type == "Constant":
                    self.constants[node.output[0]] = constant_of(attributes)
                    continue
                step = Step(node.op_type, label, tuple(node.input), tuple(node.output), attributes, opset)
                step = self._plain(step)
                if _trains(step, self.constants):
                    raise Unsupported("training mode; export the network in evaluation mode; training mode")
                if all(name in self.constants for name in step.inputs if name):
                    self._fold(step)
                    continue
            yield step

    def _plain(self, step: Step) -> Step:
        """The step without types that only the file knows, and without sequences: a part is a value of its own."""
        if step.operator == "CastLike" and self.elements.get(step.inputs[1]):
            to = {"to": self.elements[step.inputs[1]]}
            return replace(step, operator="Cast", inputs=step.inputs[:1], attributes=to)
        if step.operator == "SequenceAt":
            position = self.constants.get(step.inputs[1])
            parts = self.sequences.get(step.inputs[0])
            if position is None or parts is None:
                raise Unsupported("a part chosen by a computed value")
            return replace(step, operator="Identity", inputs=(parts[int(position)],))
        if step.operator == "SplitToSequence":
            split = self.constants.get(step.inputs[1]) if len(step.inputs) > 1 else np.asarray(1)
            have, axis = self.shapes.get(step.inputs[0], ()), step.integer("axis")
            size = have[axis] if -len(have) <= axis < len(have) else None
            if split is None or not step.integer("keepdims", 1) or (split.ndim == 0 and size is None):
                raise Unsupported("a split by computed sizes")
            if split.ndim == 0:
                each, total = int(split), size or 0
                if each < 1 or total > _MOST_PARTS * each:
                    raise Unsupported(f"a split of {total} in parts of {each}")
                sizes = [min(each, total - start) for start in range(0, total, each)]
            else:
                sizes = split.tolist()
            names = tuple(f"{step.outputs[0]}[{index}]" for index in range(len(sizes)))
            self.sequences[step.outputs[0]] = names
            attributes: dict[str, Attribute] = {"axis": axis, "split": tuple(sizes)}
            return replace(step, operator="Split", inputs=step.inputs[:1], outputs=names, attributes=attributes)
        return step

    def _fold(self, step: Step) -> None:
        if step.operator == "Identity":
            self.constants[step.outputs[0]] = self.constants[step.inputs[0]]
        else:
            known = KNOWN_INPUTS.get(step.operator, frozenset())
            values: list[Value | None] = []
            for index, name in enumerate(step.inputs):
                array = self.constants[name] if name else None
                values.append(array if array is None or index in known else as_tensor(array))
            function = FUNCTIONS.get(step.operator) or ON_SHAPES[step.operator]
            with Measured(self.stored):
                results = function(Call(step, values))
            for name, result in zip(step.outputs, results if isinstance(results, tuple) else (results,), strict=False):
                made = result.numpy() if isinstance(result, Tensor) else result
                self.constants[name] = made
                self.folded += made.nbytes
            require_memory(self.folded, "what is computed of its weights", stored=self.stored)
        if _WEIGHT.fullmatch(step.outputs[0]):
            self.origins[step.outputs[0]] = step.outputs[0]
        elif step.inputs and step.inputs[0] in self.origins:
            self.origins[step.outputs[0]] = self.origins[step.inputs[0]]

    def _relative(self, step: Step) -> Step:
        """A reshape to fixed sizes said by the sizes of its input, so that batch and channels may change."""
        target = self.constants.get(step.inputs[1]) if step.operator == "Reshape" and len(step.inputs) > 1 else None
        have = self.shapes.get(step.inputs[0]) if target is not None else None
        if target is None or have is None or (step.integer("allowzero") and 0 in target):
            return step
        return replace(
            step,
            inputs=step.inputs[:1],
            attributes={**step.attributes, "relative_shape": _relative_shape(target.reshape(-1).tolist(), have)},
        )

    def _keep_constants(self, steps: list[Step], outputs: tuple[str, ...]) -> None:
        """Constants that meet tensors become buffers; numbers, sizes and axes stay out of the state."""
        sizes: set[str] = set()
        needed: dict[str, bool] = dict.fromkeys((name for name in outputs if name in self.constants), True)
        for step in steps:
            on_sizes = step.operator in ON_SHAPES and all(
                name in sizes or name in self.constants for name in step.inputs if name
            )
            if on_sizes or step.operator in ("Shape", "Size"):
                sizes.update(step.outputs)
            known = KNOWN_INPUTS.get(step.operator, frozenset())
            if step.operator in ("Resize", "Upsample") and step.opset < 11:
                known = frozenset((1,))
            for index, name in enumerate(step.inputs):
                if name in self.constants:
                    as_numbers = on_sizes or index in known or self.constants[name].size == 1
                    needed[name] = needed.get(name, False) or not as_numbers
        for name, as_buffer in needed.items():
            if not as_buffer:
                self.network.known[name] = self.constants[name]
                continue
            place = self._free(_dotted(self.origins.get(name, name)) or "constant", "value")
            owner, _, attribute = place.rpartition(".")
            self._container(owner).register_buffer(attribute, _copied(self.constants[name]))
            self.network.buffer_names[name] = place

    # Modules.

    def _layer(self, step: Step) -> str:
        """The name of the module that computes ``step``, which is put into the network; "" if there is none."""
        maker = LAYERS.get(step.operator)
        weights = [self.constants.get(name) if name else None for name in step.inputs[1:]]
        apart = VALUES.get(step.operator, ())
        operands = [name for index, name in enumerate(step.inputs) if index and index not in apart and name]
        if maker is None or (step.operator != "Dropout" and not all(name in self.constants for name in operands)):
            return ""
        made = maker(step, weights, self.shapes.get(step.inputs[0]))
        if made is None:
            return ""
        module, tensors = made
        for name, (array, transform) in tensors.items():
            tensor = _copied(array)
            if name in dict(module.named_buffers(recurse=False)):
                module.register_buffer(name, tensor)
                continue
            key = (id(array), f"{transform}{tuple(tensor.shape)}{step.operator if transform else ''}")
            # The array stays with its parameter: the id of one that is gone may be that of another.
            made_of = self.shared.setdefault(key, (array, nn.Parameter(tensor, tensor.is_floating_point())))
            setattr(module, name, made_of[1])
        if "num_batches_tracked" in dict(module.named_buffers(recurse=False)):
            module.register_buffer("num_batches_tracked", torch.tensor(0))
        place = self._free(self._layer_name(step), step.operator.lower())
        owner, _, attribute = place.rpartition(".")
        self._container(owner).add_module(attribute, module)
        return place

    def _layer_name(self, step: Step) -> str:
        origin = self.origins.get(step.inputs[1], "") if len(step.inputs) > 1 else ""
        match = _WEIGHT.fullmatch(origin)
        if match:
            return _dotted(match[1])
        if step.name not in step.outputs:
            parts = [part for part in step.name.split("/") if part]
            if len(parts) > 1 and re.fullmatch(rf"{step.operator}(_\d+)?", parts[-1]):
                parts.pop()
            path: list[str] = []
            for part in parts:  # "layer1/layer1.0/conv1" is layer1.0.conv1
                if path and part.startswith(f"{path[-1]}."):
                    path.pop()
                path.append(part)
            return _dotted(".".join(path))
        self.counts[step.operator] += 1
        return f"{step.operator.lower()}_{self.counts[step.operator]}"

    def _free(self, name: str, fallback: str) -> str:
        """``name``, changed where a part of it is taken by something else."""
        parts = (name or fallback).split(".", _DEEPEST)
        parts[-1] = parts[-1].replace(".", "_")
        owner: nn.Module = self.network
        for index, part in enumerate(parts):
            last = index == len(parts) - 1
            candidate, count = part, 1
            while hasattr(owner, candidate) and not (not last and _is_container(getattr(owner, candidate))):
                count += 1
                candidate = f"{part}_{count}"
            parts[index] = candidate
            owner = getattr(owner, candidate, None) or nn.Module()
        return ".".join(parts)

    def _container(self, name: str) -> nn.Module:
        """The module called ``name``, made if need be."""
        owner: nn.Module = self.network
        for part in name.split(".") if name else ():
            if not hasattr(owner, part):
                owner.add_module(part, nn.Module())
            owner = owner.get_submodule(part)
        return owner


def _values_of(step: Step) -> tuple[str, ...]:
    """The inputs of a step whose weights are in its module; "" stands for one of these between others."""
    places = VALUES.get(step.operator)
    if places is None:
        return step.inputs[:1]
    return tuple(name if index in places else "" for index, name in enumerate(step.inputs))


def _is_container(value: object) -> bool:
    return type(value) is nn.Module


def _dotted(name: str) -> str:
    """``name`` as a module path: its parts hold letters, digits and underscores."""
    parts = (re.sub(r"\W+", "_", part, flags=re.ASCII).strip("_") for part in re.split(r"[./]", name))
    return ".".join(part for part in parts if part)


def _copied(array: Array) -> Tensor:
    return as_tensor(array)


def _trains(step: Step, constants: Mapping[str, Array]) -> bool:
    """Whether the node behaves as in training: batch statistics, random dropout."""
    if step.operator == "Dropout" and len(step.inputs) > 2 and step.inputs[2]:
        mode = constants.get(step.inputs[2])
        return mode is None or bool(mode.reshape(-1)[0])
    return step.operator == "BatchNormalization" and bool(step.integer("training_mode"))


def _relative_shape(target: list[int], have: Dimensions) -> tuple[int, ...]:
    """``target`` where 0 copies a size of ``have`` and -1 is what is left, equal to it for tensors of that shape.

    >>> _relative_shape([1, 512], (1, 512, 1, 1))
    (0, 0)
    >>> _relative_shape([8, 2, 58, 4, 4], (8, 116, 4, 4))
    (0, 2, -1, 4, 4)
    >>> _relative_shape([-1, 2048], (None, 512, 2, 2))
    (0, -1)
    """
    relative = list(target)
    rest = [h if t == 0 else t for t, h in zip(target[1:], (*have[1:], *([None] * len(target))), strict=False)]
    if relative and relative[0] == -1 and _product(rest) is not None and _product(rest) == _product(list(have[1:])):
        relative[0] = 0
    lead = 0
    while lead < min(len(relative), len(have)) and (relative[lead] == 0 or relative[lead] == have[lead]):
        relative[lead] = 0
        lead += 1
    if -1 not in relative and lead < len(relative):
        splits = len(relative) == len(have) + 1 and lead + 1 < len(relative) and relative[lead + 1] != 0
        relative[lead + 1 if splits else lead] = -1
    return tuple(relative)


def _product(sizes: list[int | None]) -> int | None:
    total = 1
    for size in sizes:
        if size is None or size < 0:
            return None
        total *= size
    return total
