"""The precisions that each layer of a quantized network can have, and the encodings that follow a choice of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor, nn

from ...errors import InvalidInput
from ...graph.trace import Graph, one_sample, trace
from ...integers.encoding import Encoding
from ...integers.placement import IntegerLayer, encoded_placement
from ..ranges.observers import WeightCalibration
from ..revert import without
from ..scheme import SCHEMES, Scheme

Precision = Literal["int4", "int8", "float"]
IntegerPrecision = Literal["int4", "int8"]
BITS: dict[IntegerPrecision, int] = {"int4": 4, "int8": 8}


@dataclass(frozen=True)
class Unit:
    """Layers that have one precision: one layer, or all that share a weight.

    Args:
        layers: their names.
        weights: the names of the weight, mostly one.
        products: the operations that read it.
        tensor: the weight, output channels first.
    """

    layers: tuple[str, ...]
    weights: tuple[str, ...]
    products: tuple[IntegerLayer, ...]
    tensor: Tensor

    @property
    def name(self) -> str:
        """The name of the unit's first weight, by which choices of precisions are keyed."""
        return self.weights[0]


@dataclass(frozen=True)
class Candidates:
    """A quantized network, and what its weights can be stored in.

    Args:
        model: as the stage Quantize leaves it, weights in float.
        inputs: of the network, batch first.
        graph: its trace.
        encodings: as the stage found them.
        units: in the order in which they run.
        weights: the encodings of every weight in each precision, by weight name.
        target: whose integers are simulated where the cost of a precision is measured, by name.
    """

    model: nn.Module
    inputs: tuple[Tensor, ...]
    graph: Graph
    encodings: Mapping[str, Encoding]
    units: tuple[Unit, ...]
    weights: Mapping[IntegerPrecision, Mapping[str, Encoding]]
    target: str

    @staticmethod
    def of(
        model: nn.Module,
        encodings: Mapping[str, Encoding],
        inputs: tuple[Tensor, ...],
        *,
        target: str,
        calibration: WeightCalibration = "minmax",
        per_channel: bool = True,
    ) -> Candidates:
        """What the layers that ``encodings`` has in integers can be.

        Args:
            target: the engine and processor that it is for, by name.
            calibration: how the ranges of weights in other bits follow from their values.
            per_channel: whether these have a range for each output channel.

        Raises:
            InvalidInput: the encodings are not of this network, or none of its weights is in integers.
        """
        graph = trace(model, inputs, dynamic_batch=True)
        products = encoded_placement(graph, encodings).products
        units = units_of(graph, [p for p in products if encodings[p.weight].kind == "integer"])
        if not units:
            raise InvalidInput("mixed precision: no weight of this network is in integers; take the scheme int8 or w8")
        weights: dict[IntegerPrecision, dict[str, Encoding]] = {"int4": {}, "int8": {}}
        for unit in units:
            in_integers = any(product.read in encodings for product in unit.products)
            for precision, bits in BITS.items():
                scheme = _scheme(bits, in_integers=in_integers)
                for name in unit.weights:
                    encoding = encodings[name]
                    weights[precision][name] = (
                        encoding
                        if encoding.bits == bits
                        else scheme.weight_encoding(name, unit.tensor, calibration, per_channel=per_channel)
                    )
        return Candidates(model, inputs, graph, dict(encodings), units, weights, target)

    def encodings_of(self, chosen: Mapping[str, Precision]) -> dict[str, Encoding]:
        """The encodings of the whole network with each unit in the precision of ``chosen``, by the names of units."""
        floats = [unit for unit in self.units if chosen[unit.name] == "float"]
        left = dict(self.encodings)
        if floats:
            one = one_sample(self.inputs)
            left = without(self.model, left, one, {layer for unit in floats for layer in unit.layers})
            for name in (name for unit in floats for name in unit.weights):
                left.pop(name, None)
        for unit in self.units:
            precision = chosen[unit.name]
            if precision != "float":
                left |= {name: self.weights[precision][name] for name in unit.weights}
        return left

    def uniform(self, precision: Precision) -> dict[str, Precision]:
        """The choice that has one precision everywhere."""
        return {unit.name: precision for unit in self.units}


def units_of(graph: Graph, products: Sequence[IntegerLayer]) -> tuple[Unit, ...]:
    """The products that share a weight, together, in the order in which the first of them runs."""
    together: dict[int, list[IntegerLayer]] = {}
    tensors: dict[int, Tensor] = {}
    for product in products:
        tensor = graph.tensor(product.node.args[1])
        assert tensor is not None, product.weight
        together.setdefault(id(tensor), []).append(product)
        tensors[id(tensor)] = tensor
    return tuple(
        Unit(
            tuple(dict.fromkeys(product.layer for product in sharing)),
            tuple(dict.fromkeys(product.weight for product in sharing)),
            tuple(sharing),
            tensors[key],
        )
        for key, sharing in together.items()
    )


def _scheme(bits: int, *, in_integers: bool) -> Scheme:
    """The scheme that has such weights; where what they are multiplied by stays in float, 4 bits have blocks."""
    if in_integers:
        return replace(SCHEMES["int8"], weight_bits=bits)
    return SCHEMES["w8"] if bits == 8 else SCHEMES["w4"]
