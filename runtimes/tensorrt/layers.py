"""The layers of an engine: which numbers each computes in, and which nodes of the ONNX file it was made of.

TensorRT tells them in two ways: its inspector in JSON, where a GPU has loaded the engine, and its builder in the log,
with no GPU, one line a layer. Neither form is specified; what cannot be read counts as not told.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Arithmetic = Literal["int4", "int8", "fp8", "float16", "bfloat16", "float32"]
ARITHMETICS: tuple[Arithmetic, ...] = ("int4", "int8", "fp8", "float16", "bfloat16", "float32")
"""The narrowest first."""

# Types of layers, as TensorRT calls them, that convert, move or reshape data and compute nothing.
_MOVES = re.compile(
    r"Reformat\w*|NoOp|Cast|Constant|Shuffle|Slice|Concatenation|Gather|Padding|Identity|Shape\w*|Signal|Wait|Copy"
    r"|Quantize|Dequantize|move|transpose|reshape",
    re.IGNORECASE,
)
# A layer that is made of nothing but these (its name joins theirs by " + ") only rounds.
_ROUNDING = re.compile(r".*(Quantize|QuantizeLinear|DequantizeLinear)\w*\W*\d*\]?", re.IGNORECASE)
# A kernel that TensorRT's compiler generated is named after its steps, each shortened: __myl_MulReluMinMaxRounCast_...
_GENERATED = re.compile(r"__myl_((?:[A-Z][a-z0-9]*)+)_\w+")
_STEP = re.compile(r"[A-Z][a-z0-9]*")
_MOVING_STEPS = frozenset({"Cast", "Move", "Repl", "Conc", "Resh", "Tran", "Slic", "Gath", "Copy"})
_PRODUCT_STEPS = frozenset({"Corr", "Fc", "Gemm"})
_ROUNDING_STEPS = frozenset({"Mul", "Min", "Max", "Roun"})
_DATATYPES: tuple[tuple[str, Arithmetic], ...] = (
    (r"u?int4", "int4"),
    (r"u?int8", "int8"),
    (r"fp8|float8", "fp8"),
    (r"bf16|bfloat16|bfloat", "bfloat16"),
    (r"half|fp16|float16", "float16"),
    (r"float|fp32|float32|tf32", "float32"),
)
_LOGGED = re.compile(r"Name: (?P<name>.*?), LayerType: (?P<type>.*?), Inputs: \[(?P<rest>.*)")
_PARTS = re.compile(r"\], (?=Constants: \[|Outputs: \[|TacticName: |StreamId: |Metadata: )")
_NODE = "[ONNX Layer: "


@dataclass(frozen=True)
class Layer:
    """A layer of an engine.

    Args:
        name: as TensorRT calls it.
        type: likewise.
        read: the types of what it reads, data first and then constants, as TensorRT writes them.
        nodes: the names of the nodes of the ONNX file that it computes, or some of them; () where that is not told.
    """

    name: str
    type: str
    read: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()

    @property
    def kind(self) -> Literal["integer", "float", "other"]:
        """The arithmetic by the type of what it reads; ``other`` converts, moves, reshapes or rounds data.

        >>> Layer("conv", "CaskConvolution", ("Int8",)).kind, Layer("conv", "correlation", ("Half", "Half")).kind
        ('integer', 'float')
        """
        names = self.name.split(" + ")
        if _MOVES.fullmatch(self.type) or all(_ROUNDING.fullmatch(name) for name in names) or not self.read:
            return "other"
        generated = _GENERATED.fullmatch(self.name)
        if generated is not None:
            steps = _STEP.findall(generated[1])
            if set(steps) <= _MOVING_STEPS | (_ROUNDING_STEPS if "Roun" in steps else frozenset()):
                return "other"
            if steps[0] == "Cast":  # integers are read, and made floats first
                return "float"
        first = arithmetic_of(self.read[0])
        return "other" if first is None else "integer" if first in ("int4", "int8") else "float"

    @property
    def arithmetic(self) -> Arithmetic | None:
        """What a product of two tensors computes in: the wider of their types; None where that is not told.

        >>> Layer("fc", "gemm", ("Int8", "Int8", "Float")).arithmetic, Layer("fc", "gemm", ("Half",)).arithmetic
        ('int8', 'float16')
        """
        operands = [arithmetic_of(datatype) for datatype in self.read[:2]]
        known = [each for each in operands if each is not None]
        return max(known, key=ARITHMETICS.index) if known and len(known) == len(operands) else None

    @property
    def is_between(self) -> bool:
        """Whether it is a kernel between products: generated for a chain of operations, none of which is one.

        >>> Layer("__myl_CorrMul_myl0_2", "runtime_fusion").is_between, Layer("__myl_MulAdd_myl0_3", "kgen").is_between
        (False, True)
        """
        generated = _GENERATED.fullmatch(self.name)
        if generated is None:
            return self.type == "kgen"
        return not _PRODUCT_STEPS & set(_STEP.findall(generated[1]))


def arithmetic_of(datatype: str) -> Arithmetic | None:
    """What a type is as TensorRT's messages write it; None for one that is neither 8-bit, 4-bit nor float.

    >>> arithmetic_of("Float"), arithmetic_of("32 wide channel vectorized Int8 format"), arithmetic_of("Int32")
    ('float32', 'int8', None)
    """
    words = set(re.findall(r"[a-z0-9]+", datatype.lower()))
    return next((name for form, name in _DATATYPES if any(re.fullmatch(form, word) for word in words)), None)


def layers_in(engine_json: str) -> tuple[Layer, ...] | None:
    """Return the layers of an inspector's JSON, or None where the engine was built to tell their names alone.

    TensorRT 10 tells types as ``Format/Datatype`` ("... Int8 format"), 11 as ``DataType``.

    >>> layers_in('{"Layers": ["conv + relu"]}') is None
    True
    """
    try:
        layers = json.loads(engine_json).get("Layers", [])
    except (json.JSONDecodeError, AttributeError):
        return None
    if not isinstance(layers, list) or not layers or not all(isinstance(layer, dict) for layer in layers):
        return None
    return tuple(_from_json(layer) for layer in layers)


def layers_logged(message: str | None) -> tuple[Layer, ...] | None:
    """Return the layers that a builder lists in its log, or None where ``message`` is no such list.

    >>> text = (
    ...     "Layers:\\nName: fc_myl0_2, LayerType: gemm, Inputs: [ { Name: a, Dimensions: [-1,4], Datatype: Int8 }], "
    ...     "Constants: [ { Name: w, Datatype: Int8 }], Outputs: [ { Name: y, Datatype: Float }], TacticName: t, "
    ...     "StreamId: 0, Metadata: [ONNX Layer: fc][ONNX Layer: node_of_x]"
    ... )
    >>> layers_logged(text)
    (Layer(name='fc_myl0_2', type='gemm', read=('Int8', 'Int8'), nodes=('fc', 'node_of_x')),)
    """
    made = []
    for line in (message or "").splitlines()[1:]:
        if not line.strip():
            break
        hit = _LOGGED.fullmatch(line.strip())
        if hit is None:
            return None
        made.append(_from_log(hit["name"], hit["type"], hit["rest"]))
    return tuple(made) or None


def _from_log(name: str, type_: str, rest: str) -> Layer:
    inputs, *others = _PARTS.split(rest)
    constants = next((each for each in others if each.startswith("Constants: ")), "")
    _, _, metadata = rest.rpartition("Metadata: ")
    return Layer(name, type_, (*_datatypes(inputs), *_datatypes(constants)), _nodes(metadata))


def _datatypes(tensors: str) -> tuple[str, ...]:
    return tuple(re.findall(r"Datatype: (\w+(?: \w+)*)", tensors))


def _nodes(metadata: str) -> tuple[str, ...]:
    if _NODE not in metadata:
        return ()
    return tuple(each.rpartition("]")[0] for each in metadata.split(_NODE)[1:])  # "]__gemm_from_conv1x1" may follow


def _from_json(layer: Mapping[str, Any]) -> Layer:
    tensors: list[Sequence[Any]] = [layer.get(key, ()) for key in ("Inputs", "Constants")]
    read = [_datatype(each) for some in tensors if isinstance(some, list) for each in some if isinstance(each, dict)]
    nodes = _nodes(str(layer.get("Metadata", "")))
    return Layer(str(layer.get("Name", "")), str(layer.get("LayerType", "")), tuple(read), nodes)


def _datatype(tensor: Mapping[str, Any]) -> str:
    keys = ("DataType", "Datatype", "Format/Datatype", "Format/DataType", "Format")
    return next((str(tensor[key]) for key in keys if key in tensor), "")
