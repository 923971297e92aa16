"""An ONNX file as a torch network, so that every stage works on a network whose source is lost.

Nodes with weights become modules (``nn.Conv2d``, ``nn.BatchNorm2d``, ...), the others functions of torch.
Names come from the file alone: the same file gives the same modules and the same ``state_dict`` keys.
"""

from __future__ import annotations

import inspect
import keyword
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import torch
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, numpy_helper
from torch import Tensor, nn

from . import onnx_operations as operations
from .errors import InvalidInput
from .onnx_operations import Array, Attribute, Call, Step, Unsupported, Value

TOLERANCE = 1e-4
"""Largest difference to ONNX Runtime, relative to the largest absolute value of the output."""
_HALF_TOLERANCE = 2e-2
_OLDEST_OPSET = 7
_GUESSED_SIZES = (64, 224, 128, 32, 256, 299, 16)
"""Tried in turn for sizes that the file leaves open."""
_QUANTIZED = re.compile(r"QLinear|QuantizeLinear|QAttention|QGemm|Integer$|^Q(Add|Mul|Conv|MatMul)")
_WEIGHT = re.compile(r"(.+)[./](weight|kernel|w)(:0)?")
_CONVOLUTIONS: tuple[Callable[..., nn.Module], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED: tuple[Callable[..., nn.Module], ...] = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_BATCH_NORMS: Mapping[int, Callable[..., nn.Module]] = {
    2: nn.BatchNorm1d,
    3: nn.BatchNorm1d,
    4: nn.BatchNorm2d,
    5: nn.BatchNorm3d,
}
_INSTANCE_NORMS: Mapping[int, Callable[..., nn.Module]] = {
    3: nn.InstanceNorm1d,
    4: nn.InstanceNorm2d,
    5: nn.InstanceNorm3d,
}
Dimensions = tuple[int | None, ...]


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
                results = operations.run(call)
            except Unsupported as error:
                raise InvalidInput(f"node {step.name} ({step.operator}): {error} is not supported") from error
            except Exception as error:
                error.add_note(f"in node {step.name} ({step.operator})")
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
        tensors = tuple(value if isinstance(value, Tensor) else operations.as_tensor(value) for value in made)
        return tensors[0] if len(tensors) == 1 else tensors


def _value(values: Mapping[str, Value], name: str) -> Value:
    if name not in values:
        raise Unsupported(f"the value {name}, a second output of its node,")
    return values[name]


def _class_with_inputs(names: tuple[str, ...]) -> type[OnnxNetwork]:
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


# --- public ----------------------------------------------------------------------------------------------------------


def load_onnx(path: Path, *, input_shape: tuple[int, ...] | None = None, verify: bool = True) -> OnnxNetwork:
    """The network of the file, in evaluation mode, with the weights that the file holds.

    Nothing in the file is executed: its nodes are looked up in a table of operators.

    Args:
        input_shape: the shape that ``verify`` runs on, where the file leaves sizes open; else common sizes are tried.
        verify: compare with ONNX Runtime on a random input.

    Raises:
        InvalidInput: not a readable ONNX file, quantized already, operators without a counterpart (all are named), or
            outputs that differ from ONNX Runtime's by more than 1e-4 of their largest value.
    """
    model = _read(path)
    session = _session(path) if verify else None
    if session is None:
        try:
            onnx.checker.check_model(str(path))
        except Exception as error:
            raise InvalidInput(f"{path}: not a valid ONNX file: {_first_line(error)}") from error
    network = _Builder(path, model).build()
    if session is not None:
        _verify(path, network, session, input_shape)
    return network


def example_inputs_of(
    path: Path, batch: int = 1, *, input_shape: tuple[int, ...] | None = None, seed: int = 0
) -> tuple[Tensor, ...]:
    """One random tensor per input of the file: standard normal, or 0 and 1 for integers.

    Args:
        batch: the first dimension, where the file leaves it open.
        input_shape: with its batch; overrides the shape of the first input, and fills open sizes of the others that
            have as many dimensions.

    Raises:
        InvalidInput: the file is not readable, leaves other sizes open, or fixes sizes other than those given.
    """
    shapes = []
    for number, (name, element, dimensions) in enumerate(_graph_inputs(_parse(path))):
        given = input_shape if number == 0 or (dimensions and len(dimensions) == len(input_shape or ())) else None
        shapes.append((_filled(path, name, dimensions, batch, given, required=number == 0), element))
    return _random_inputs(shapes, seed)


# --- reading ---------------------------------------------------------------------------------------------------------


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def _parse(path: Path, *, weights: bool = False) -> ModelProto:
    if not path.is_file():
        raise InvalidInput(f"{path}: no such file")
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:
        raise InvalidInput(f"{path}: not a readable ONNX file, perhaps cut short ({_first_line(error)})") from error
    if not model.graph.node and not model.graph.output:
        raise InvalidInput(f"{path}: not an ONNX file: it holds no graph")
    if weights:
        try:
            onnx.load_external_data_for_model(model, str(path.parent))
        except Exception as error:
            raise InvalidInput(
                f"{path}: its weights are in other files, which must lie beside it: {_first_line(error)}"
            ) from error
    return model


def _read(path: Path) -> ModelProto:
    """The model with its functions inlined, and nothing in it that cannot be imported."""
    model = _parse(path, weights=True)
    operators = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    quantized = [node for node in operators if _QUANTIZED.search(node.op_type)]
    if quantized:
        raise InvalidInput(
            f"{path}: is quantized already ({len(quantized)} nodes such as {_label(quantized[0], 0)}); give the float "
            "file that it was made from"
        )
    if model.functions:
        try:
            model = onnx.inliner.inline_local_functions(model)
        except Exception as error:
            raise InvalidInput(f"{path}: its functions cannot be inlined: {_first_line(error)}") from error
    opset = _opset(model)
    if opset < _OLDEST_OPSET:
        raise InvalidInput(
            f"{path}: is of opset {opset}; the oldest that can be imported is {_OLDEST_OPSET}; convert it with "
            "onnx.version_converter"
        )
    supported = {*operations.FUNCTIONS, *operations.ON_SHAPES, "Constant", "SplitToSequence", "SequenceAt"}
    unsupported: dict[str, list[str]] = {}
    for index, node in enumerate(model.graph.node):
        if node.op_type not in supported or node.domain not in ("", "ai.onnx"):
            operator = f"{node.domain}.{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type
            unsupported.setdefault(operator, []).append(_label(node, index))
    if unsupported:
        named = "; ".join(f"{operator} ({', '.join(labels)})" for operator, labels in sorted(unsupported.items()))
        raise InvalidInput(f"{path}: operators that cannot be imported: {named}")
    if model.graph.sparse_initializer:
        raise InvalidInput(
            f"{path}: sparse weights cannot be imported; store {model.graph.sparse_initializer[0]} dense"
        )
    return model


def _opset(model: ModelProto) -> int:
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=1)


def _label(node: NodeProto, index: int) -> str:
    return node.name or (node.output[0] if node.output and node.output[0] else f"{node.op_type}_{index}")


def _dimensions(type_: onnx.TypeProto) -> Dimensions | None:
    tensor = type_.tensor_type
    if not tensor.HasField("shape"):
        return None
    return tuple(d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in tensor.shape.dim)


def _graph_inputs(model: ModelProto) -> list[tuple[str, int, Dimensions | None]]:
    """Name, element type and sizes of every input that is not a weight."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [
        (value.name, value.type.tensor_type.elem_type, _dimensions(value.type))
        for value in model.graph.input
        if value.name not in weights
    ]


def _filled(
    path: Path,
    name: str,
    dimensions: Dimensions | None,
    batch: int,
    given: tuple[int, ...] | None,
    *,
    required: bool,
) -> tuple[int, ...]:
    """The sizes of an input: those of the file, then those given; the first is the batch."""
    if dimensions is None:
        if given is None:
            raise InvalidInput(f"{path}: the input {name} has no shape; give --input-shape")
        return given
    if given is not None and (
        len(given) != len(dimensions)
        or any(d is not None and d != g for d, g in zip(dimensions[1:], given[1:], strict=True))
    ):
        if required:
            raise InvalidInput(f"{path}: the input {name} has the shape {_text(dimensions)}, not {given}")
        given = None
    if given is not None:
        return given
    sizes = tuple(batch if d is None and i == 0 else d for i, d in enumerate(dimensions))
    if any(size is None for size in sizes):
        raise InvalidInput(f"{path}: the input {name} has open sizes, {_text(dimensions)}; give --input-shape")
    return tuple(size for size in sizes if size is not None)


def _text(dimensions: Dimensions) -> str:
    return "(" + ", ".join("?" if d is None else str(d) for d in dimensions) + ")"


def _random_inputs(shapes: list[tuple[tuple[int, ...], int]], seed: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    made = []
    for shape, element in shapes:
        dtype = operations.DTYPES.get(element, torch.float32)
        random = (
            torch.randn(shape, generator=generator)
            if dtype.is_floating_point
            else torch.randint(0, 2, shape, generator=generator)
        )
        made.append(random.to(dtype))
    return tuple(made)


# --- building --------------------------------------------------------------------------------------------------------


def _attributes(node: NodeProto) -> dict[str, Attribute]:
    attributes: dict[str, Attribute] = {}
    for attribute in node.attribute:
        value: Any = onnx.helper.get_attribute_value(attribute)
        if attribute.type == AttributeProto.TENSOR:
            value = _array(attribute.t)
        elif attribute.type == AttributeProto.STRING:
            value = value.decode("utf-8", "replace")
        elif attribute.type in (AttributeProto.INTS, AttributeProto.FLOATS):
            value = tuple(value)
        elif attribute.type == AttributeProto.STRINGS:
            value = tuple(item.decode("utf-8", "replace") for item in value)
        elif attribute.type not in (AttributeProto.INT, AttributeProto.FLOAT):
            raise Unsupported(f"the attribute {attribute.name} of type {attribute.type}")
        attributes[attribute.name] = value
    return attributes


def _array(tensor: TensorProto) -> Array:
    if tensor.data_type not in operations.DTYPES or tensor.data_type == TensorProto.BFLOAT16:
        raise Unsupported(f"the tensor {tensor.name} of type {TensorProto.DataType.Name(tensor.data_type)}")
    return numpy_helper.to_array(tensor)


@dataclass
class _Builder:
    """Turns the nodes of one model into steps and modules."""

    path: Path
    model: ModelProto
    constants: dict[str, Array] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    """The initializer that a constant was derived from, for naming."""
    sequences: dict[str, tuple[str, ...]] = field(default_factory=dict)
    shared: dict[tuple[int, str], nn.Parameter] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    def build(self) -> OnnxNetwork:
        """The network, in evaluation mode."""
        graph = self.model.graph
        self.network = _class_with_inputs(tuple(name for name, _, _ in _graph_inputs(self.model)))()
        self.network.inputs = tuple(name for name, _, _ in _graph_inputs(self.model))
        for name, element, _ in _graph_inputs(self.model):
            if element not in operations.DTYPES:
                kind = TensorProto.DataType.Name(element)
                raise InvalidInput(f"{self.path}: the input {name} of type {kind} cannot be imported")
        self.shapes, self.elements = self._inferred()
        try:
            self.constants = {tensor.name: _array(tensor) for tensor in graph.initializer}
        except (Unsupported, ValueError) as error:
            raise InvalidInput(f"{self.path}: {_first_line(error)} cannot be imported") from error
        self.origins = {name: name for name in self.constants}
        steps = []
        for step in self._merged(list(self._unfolded())):
            layer = self._layer(step)
            steps.append(replace(step, layer=layer, inputs=step.inputs[:1]) if layer else step)
        outputs = tuple(value.name for value in graph.output)
        self._keep_constants(steps, outputs)
        self.network.plan(tuple(steps), outputs)
        self.network.eval()
        self._observe_shapes(steps)
        steps = [self._relative(step) for step in steps]
        used = {*outputs, *(name for step in steps for name in step.inputs)}
        self.network.known = {name: array for name, array in self.network.known.items() if name in used}
        self.network.plan(tuple(steps), outputs)
        return self.network

    def _observe_shapes(self, steps: list[Step]) -> None:
        """Run the network to learn shapes that reshapes need and that inference did not find."""
        reshaped = [step.inputs[0] for step in steps if step.operator == "Reshape"]
        declared = _graph_inputs(self.model)
        if all(None not in self.shapes.get(name, (None,)) for name in reshaped):
            return
        if any(dimensions is None or None in dimensions for _, _, dimensions in declared):
            return

        def observe(name: str, value: Value) -> None:
            if isinstance(value, Tensor):
                self.shapes[name] = tuple(value.shape)

        zeros = [
            torch.zeros(tuple(d or 1 for d in dimensions or ()), dtype=operations.DTYPES[element])
            for _, element, dimensions in declared
        ]
        try:
            with torch.no_grad():
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
        found = {value.name: _dimensions(value.type) for value in values}
        shapes = {name: dimensions for name, dimensions in found.items() if dimensions is not None}
        return shapes, {value.name: value.type.tensor_type.elem_type for value in values}

    def _unfolded(self) -> Iterator[Step]:
        """Steps for the nodes that depend on the inputs; what does not is computed now, into ``constants``."""
        opset = _opset(self.model)
        for index, node in enumerate(self.model.graph.node):
            label = _label(node, index)
            try:
                attributes = _attributes(node)
                if node.op_type == "Constant":
                    self.constants[node.output[0]] = _constant(attributes)
                    continue
                step = Step(node.op_type, label, tuple(node.input), tuple(node.output), attributes, opset)
                step = self._plain(step)
                if _trains(step, self.constants):
                    raise Unsupported("training mode; export the network in evaluation mode; training mode")
                if all(name in self.constants for name in step.inputs if name) and self._fold(step):
                    continue
            except Unsupported as error:
                raise InvalidInput(f"{self.path}: node {label} ({node.op_type}): {error} is not supported") from error
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
                sizes = [min(each, total - start) for start in range(0, total, each)]
            else:
                sizes = split.tolist()
            names = tuple(f"{step.outputs[0]}[{index}]" for index in range(len(sizes)))
            self.sequences[step.outputs[0]] = names
            attributes: dict[str, Attribute] = {"axis": axis, "split": tuple(sizes)}
            return replace(step, operator="Split", inputs=step.inputs[:1], outputs=names, attributes=attributes)
        return step

    def _fold(self, step: Step) -> bool:
        if step.operator == "Identity":
            self.constants[step.outputs[0]] = self.constants[step.inputs[0]]
        else:
            known = operations.KNOWN_INPUTS.get(step.operator, frozenset())
            values: list[Value | None] = []
            for index, name in enumerate(step.inputs):
                array = self.constants[name] if name else None
                values.append(array if array is None or index in known else operations.as_tensor(array))
            function = operations.FUNCTIONS.get(step.operator) or operations.ON_SHAPES[step.operator]
            try:
                results = function(Call(step, values))
            except RuntimeError as error:
                raise InvalidInput(f"{self.path}: node {step.name} ({step.operator}): {_first_line(error)}") from error
            for name, result in zip(step.outputs, results if isinstance(results, tuple) else (results,), strict=False):
                self.constants[name] = result.numpy() if isinstance(result, Tensor) else result
        if _WEIGHT.fullmatch(step.outputs[0]):
            self.origins[step.outputs[0]] = step.outputs[0]
        elif step.inputs and step.inputs[0] in self.origins:
            self.origins[step.outputs[0]] = self.origins[step.inputs[0]]
        return True

    def _merged(self, steps: list[Step]) -> list[Step]:
        """The steps, with a constant that is added to a product with a constant matrix as the bias of that product."""
        uses = Counter(name for step in steps for name in step.inputs)
        uses.update(value.name for value in self.model.graph.output)
        producers = {step.outputs[0]: index for index, step in enumerate(steps) if step.operator == "MatMul"}
        merged: dict[int, Step] = {}
        dropped: set[int] = set()
        for index, step in enumerate(steps):
            if step.operator != "Add":
                continue
            for product, bias in (step.inputs, tuple(reversed(step.inputs))):
                producer = producers.get(product)
                if producer is None or uses[product] != 1 or bias not in self.constants:
                    continue
                weight = self.constants.get(steps[producer].inputs[1])
                if weight is not None and weight.ndim == 2 and self.constants[bias].shape == (weight.shape[1],):
                    first = steps[producer]
                    # It runs where the sum did; nothing else reads the product.
                    merged[index] = replace(first, inputs=(*first.inputs, bias), outputs=step.outputs)
                    dropped.add(producer)
        return [merged.get(index, step) for index, step in enumerate(steps) if index not in dropped]

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
            on_sizes = step.operator in operations.ON_SHAPES and all(
                name in sizes or name in self.constants for name in step.inputs if name
            )
            if on_sizes or step.operator in ("Shape", "Size"):
                sizes.update(step.outputs)
            known = operations.KNOWN_INPUTS.get(step.operator, frozenset())
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
        maker = _LAYERS.get(step.operator)
        weights = [self.constants.get(name) if name else None for name in step.inputs[1:]]
        given = [name for name in step.inputs[1:] if name]
        if maker is None or (step.operator != "Dropout" and not all(name in self.constants for name in given)):
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
            parameter = self.shared.setdefault(key, nn.Parameter(tensor, requires_grad=tensor.is_floating_point()))
            setattr(module, name, parameter)
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
        parts = name.split(".") if name else [fallback]
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


def _is_container(value: object) -> bool:
    return type(value) is nn.Module


def _dotted(name: str) -> str:
    """``name`` as a module path: its parts hold letters, digits and underscores."""
    parts = (re.sub(r"\W+", "_", part, flags=re.ASCII).strip("_") for part in re.split(r"[./]", name))
    return ".".join(part for part in parts if part)


def _copied(array: Array) -> Tensor:
    return operations.as_tensor(array)


def _trains(step: Step, constants: Mapping[str, Array]) -> bool:
    """Whether the node behaves as in training: batch statistics, random dropout."""
    if step.operator == "Dropout" and len(step.inputs) > 2 and step.inputs[2]:
        mode = constants.get(step.inputs[2])
        return mode is None or bool(mode.reshape(-1)[0])
    return step.operator == "BatchNormalization" and bool(step.integer("training_mode"))


def _constant(attributes: Mapping[str, Attribute]) -> Array:
    for key, value in attributes.items():
        if key == "value" and isinstance(value, np.ndarray):
            return value
        if key in ("value_float", "value_floats"):
            return np.asarray(value, np.float32)
        if key in ("value_int", "value_ints"):
            return np.asarray(value, np.int64)
    raise Unsupported(f"a constant given as {', '.join(attributes)}")


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


Tensors = dict[str, tuple[Array, str]]
Made = tuple[nn.Module, Tensors] | None
Weights = list[Array | None]


def _given(**arrays: Array | None) -> Tensors:
    return {name: (array, "") for name, array in arrays.items() if array is not None}


def _make_convolution(step: Step, weights: Weights, _: Dimensions | None) -> Made:
    weight, bias = (*weights, None)[:2]
    if weight is None or not 3 <= weight.ndim <= 5:
        return None
    kernel = weight.shape[2:]
    count = len(kernel)
    stride = step.integers("strides") or (1,) * count
    dilation = step.integers("dilations") or (1,) * count
    groups = step.integer("group", 1)
    padding: tuple[int, ...] = (0,) * count
    if not operations.pads_apart(step, kernel):
        padding = tuple(operations.window_pads(step, kernel, kernel, stride, dilation)[0])
    module = _CONVOLUTIONS[count - 1](
        weight.shape[1] * groups,
        weight.shape[0],
        kernel,
        stride,
        padding,
        dilation,
        groups,
        bias is not None,
        device="meta",
    )
    return module, _given(weight=weight, bias=bias)


def _make_transposed(step: Step, weights: Weights, _: Dimensions | None) -> Made:
    weight, bias = (*weights, None)[:2]
    if weight is None or not 3 <= weight.ndim <= 5:
        return None
    kernel = weight.shape[2:]
    count = len(kernel)
    stride = step.integers("strides") or (1,) * count
    dilation = step.integers("dilations") or (1,) * count
    groups = step.integer("group", 1)
    output_padding = step.integers("output_padding") or (0,) * count
    module = _TRANSPOSED[count - 1](
        weight.shape[0],
        weight.shape[1] * groups,
        kernel,
        stride,
        operations.transposed_pads(step, count),
        output_padding,
        groups,
        bias is not None,
        dilation,
        device="meta",
    )
    return module, _given(weight=weight, bias=bias)


def _make_batch_norm(step: Step, weights: Weights, have: Dimensions | None) -> Made:
    scale, bias, mean, variance = weights[:4]
    if scale is None or not step.integer("spatial", 1):
        return None
    module = _BATCH_NORMS.get(len(have) if have else 4, nn.BatchNorm2d)(
        scale.size, step.real("epsilon", 1e-5), 1 - step.real("momentum", 0.9), device="meta"
    )
    return module, _given(weight=scale, bias=bias, running_mean=mean, running_var=variance)


def _make_instance_norm(step: Step, weights: Weights, have: Dimensions | None) -> Made:
    scale, bias = weights[:2]
    if scale is None:
        return None
    made = _INSTANCE_NORMS.get(len(have) if have else 4, nn.InstanceNorm2d)
    return made(scale.size, step.real("epsilon", 1e-5), affine=True, device="meta"), _given(weight=scale, bias=bias)


def _make_layer_norm(step: Step, weights: Weights, have: Dimensions | None) -> Made:
    scale, bias = (*weights, None)[:2]
    axis = step.integer("axis", -1)
    axis = axis - len(have) if axis >= 0 and have else axis
    fits = scale is not None and axis == -scale.ndim and (bias is None or bias.shape == scale.shape)
    if scale is None or not fits or len([name for name in step.outputs if name]) > 1:
        return None
    if have is None or tuple(have[axis:]) != scale.shape:
        return None
    module = nn.LayerNorm(scale.shape, step.real("epsilon", 1e-5), bias=bias is not None, device="meta")
    return module, _given(weight=scale, bias=bias)


def _make_group_norm(step: Step, weights: Weights, have: Dimensions | None) -> Made:
    scale, bias = weights[:2]
    if scale is None or have is None or have[1] != scale.size:
        return None
    module = nn.GroupNorm(step.integer("num_groups"), scale.size, step.real("epsilon", 1e-5), device="meta")
    return module, _given(weight=scale, bias=bias)


def _make_linear(step: Step, weights: Weights, _: Dimensions | None) -> Made:
    weight, bias = (*weights, None)[:2]
    if weight is None or weight.ndim != 2 or step.integer("transA"):
        return None
    transposed = step.operator == "Gemm" and bool(step.integer("transB"))
    outputs, inputs = weight.shape if transposed else weight.shape[::-1]
    tensors = {"weight": (weight, "")}
    alpha, beta = step.real("alpha", 1.0), step.real("beta", 1.0)
    if not transposed or alpha != 1:
        tensors["weight"] = ((weight if transposed else weight.T) * weight.dtype.type(alpha), f"{transposed}{alpha}")
    if bias is not None:
        if bias.size not in (1, outputs) or bias.shape[-1:] not in ((), (1,), (outputs,)):
            return None
        tensors["bias"] = (np.broadcast_to(bias.reshape(-1), (outputs,)) * bias.dtype.type(beta), f"{beta}")
    return nn.Linear(inputs, outputs, bias is not None, device="meta"), tensors


def _make_prelu(_step: Step, weights: Weights, have: Dimensions | None) -> Made:
    slope = weights[0]
    if slope is None:
        return None
    if slope.size != 1:
        # One slope per channel, which torch takes along dimension 1.
        rank = len(have) if have else 4
        full = (1,) * (rank - slope.ndim) + slope.shape
        if slope.ndim > rank or rank < 2 or full[1] != slope.size:
            return None
    return nn.PReLU(slope.size, device="meta"), {"weight": (slope.reshape(-1), "flat")}


def _make_dropout(step: Step, weights: Weights, _: Dimensions | None) -> Made:
    ratio = weights[0] if weights else None
    return nn.Dropout(step.real("ratio", 0.5) if ratio is None else float(ratio.reshape(-1)[0])), {}


_LAYERS: Mapping[str, Callable[[Step, Weights, Dimensions | None], Made]] = {
    "BatchNormalization": _make_batch_norm,
    "Conv": _make_convolution,
    "ConvTranspose": _make_transposed,
    "Dropout": _make_dropout,
    "Gemm": _make_linear,
    "GroupNormalization": _make_group_norm,
    "InstanceNormalization": _make_instance_norm,
    "LayerNormalization": _make_layer_norm,
    "MatMul": _make_linear,
    "PRelu": _make_prelu,
}


# --- verifying -------------------------------------------------------------------------------------------------------


def _session(path: Path) -> Any:
    """The file in ONNX Runtime, which also checks that it is valid."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise InvalidInput(f"{path}: not a valid ONNX file: ONNX Runtime says {_first_line(error)}") from error


def _verify(path: Path, network: OnnxNetwork, session: Any, input_shape: tuple[int, ...] | None) -> None:
    """Raise InvalidInput unless ``network`` gives what ONNX Runtime gives for the file."""
    inputs, expected = _reference(path, session, input_shape)
    try:
        with torch.no_grad():
            got = network(*inputs)
    except InvalidInput as error:
        raise InvalidInput(f"{path}: {error}") from error
    except Exception as error:
        where = ", ".join(getattr(error, "__notes__", ()))
        raise InvalidInput(f"{path}: cannot be run in torch, {where}: {_first_line(error)}") from error
    shapes = ", ".join(str(tuple(x.shape)) for x in inputs)
    for name, ours, theirs in zip(network.outputs, got if isinstance(got, tuple) else (got,), expected, strict=True):
        difference, tolerance = _relative_difference(ours, theirs)
        if difference > tolerance:
            raise InvalidInput(
                f"{path}: the network imported into torch differs from ONNX Runtime in the output {name} by "
                f"{difference:.2g} of its largest value (expected at most {tolerance:.0e}) on random inputs of shape "
                f"{shapes}"
            )
    fixed = {dimensions[0] for _, _, dimensions in _graph_inputs(_parse(path)) if dimensions}
    if fixed != {None} and not _batch_may_vary(network, inputs):
        network.fixed_batch = inputs[0].shape[0]


def _batch_may_vary(network: OnnxNetwork, inputs: tuple[Tensor, ...]) -> bool:
    """Whether twice the batch gives the same outputs as its halves: the file may compute with the size it fixes."""
    others = tuple(x.flip(-1) if x.ndim else x for x in inputs)
    try:
        with torch.no_grad():
            both = network(*(torch.cat(pair) for pair in zip(inputs, others, strict=True)))
            halves = network(*inputs), network(*others)
        wholes, firsts, seconds = (out if isinstance(out, tuple) else (out,) for out in (both, *halves))
        return all(
            _relative_difference(whole, torch.cat([first, second]).numpy())[0] <= _HALF_TOLERANCE
            for whole, first, second in zip(wholes, firsts, seconds, strict=True)
        )
    except Exception:  # noqa: BLE001 - whatever the reason, it does not run so
        return False


def _reference(path: Path, session: Any, input_shape: tuple[int, ...] | None) -> tuple[tuple[Tensor, ...], list[Array]]:
    """Random inputs that ONNX Runtime takes, and its outputs for them."""
    declared = _graph_inputs(_parse(path))
    failure: Exception | None = None
    candidates: list[tuple[int, int | None]] = [(2, None), (1, None)]
    opened = any(dimensions is None or None in dimensions[1:] for _, _, dimensions in declared)
    if opened and input_shape is None:
        candidates = [(batch, size) for size in _GUESSED_SIZES for batch in (2, 1)]
    for batch, size in candidates:
        if size is None:
            inputs = example_inputs_of(path, batch, input_shape=input_shape)
        else:
            if any(dimensions is None for _, _, dimensions in declared):
                break
            filled = [
                (tuple(d or (size if i else batch) for i, d in enumerate(dimensions or ())), element)
                for _, element, dimensions in declared
            ]
            inputs = _random_inputs(filled, 0)
        try:
            feeds = {name: x.numpy() for (name, _, _), x in zip(declared, inputs, strict=True)}
            return inputs, session.run(None, feeds)
        except Exception as error:  # noqa: BLE001 - the runtime's own exceptions derive from Exception alone
            failure = error
    reason = f": {_first_line(failure)}" if failure else ""
    hint = "; give --input-shape" if opened and input_shape is None else ""
    raise InvalidInput(f"{path}: ONNX Runtime does not run it on random inputs{reason}{hint}")


def _relative_difference(ours: Tensor, theirs: Array) -> tuple[float, float]:
    """The largest difference relative to the largest value (infinite if the shapes differ), and what it may be."""
    mine = ours.detach().cpu()
    tolerance = _HALF_TOLERANCE if mine.dtype in (torch.float16, torch.bfloat16) else TOLERANCE
    if tuple(mine.shape) != theirs.shape:
        return np.inf, tolerance
    a, b = mine.double().numpy(), theirs.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    if same.all():
        return 0.0, tolerance
    scale = float(np.max(np.abs(b[np.isfinite(b)]), initial=1e-6))
    difference = float(np.max(np.where(same, 0.0, np.abs(a - b)))) / scale
    return (np.inf if np.isnan(difference) else difference), tolerance
