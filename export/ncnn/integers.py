"""What ncnn2int8 does with a float network, from our encodings: layers told that they are in integers, and the table.

Convolutions, depthwise ones and inner products multiply integers; each turns what it reads into them by itself. Where
only convolutions in integers read what one yields, it yields integers at once (requantization). Everything else is in
float. ncnn: tools/quantize/ncnn2int8.cpp.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from compress.errors import InvalidInput
from compress.integers.plan import Plan

from . import param
from .param import Layer
from .weights import REQUANTIZES, SCALES, Weight, weight_scales

CONVOLUTIONS = ("Convolution", "ConvolutionDepthWise")


def decide(weights: Sequence[Weight], planned: Plan) -> tuple[str, ...]:
    """Set how each weight is stored, as planned; returns the layers whose encoded weights stay in float.

    Raises:
        InvalidInput: weights are encoded in a way that the engine has not.
    """
    of = {weight.node: weight for weight in weights}
    left: list[str] = []
    target = planned.target.name
    for each in planned.layers:
        weight = of[each.layer.node.name]
        if each.encoding.kind == "bfloat16":
            raise InvalidInput(f"target {target}: its files have no bfloat16; quantize with --scheme fp16")
        if each.encoding.kind == "float16":
            weight.half = True
        elif each.weight is not None and each.read is not None:
            weight.integers = each.weight.parameters
            weight.input_scale = float(np.float32(1 / each.read.scale))
        else:
            left.append(each.layer.layer)
    if left and not any(weight.half or weight.integers is not None for weight in weights):
        raise InvalidInput(
            f"target {target}: its engine multiplies integers by integers only, in 2-d convolutions and linear "
            f"layers of vectors, and none is encoded like that ({left[0]}, ...); quantize with --scheme int8 or fp16"
        )
    return tuple(dict.fromkeys(left))


def mark(layers: list[Layer], weights: Sequence[Weight]) -> None:
    """Tell the layers, in place, which of them are in integers, and which yield integers."""
    of = {weight.layer.name: weight for weight in weights if weight.layer is not None and weight.integers is not None}
    for layer in layers:
        if layer.name in of:
            layer.parameters[SCALES] = "1" if layer.kind == "ConvolutionDepthWise" else "2"
    for layer in reversed(list(layers)):  # what reads a layer is decided before it
        if layer.name not in of or layer.kind not in CONVOLUTIONS:
            continue
        weight, readers = of[layer.name], param.consumers(layers, layer.tops[0])
        scales = {of[reader.name].input_scale for reader in readers if reader.name in of}
        if len(scales) == 1 and all(reader.name in of and reader.kind in CONVOLUTIONS for reader in readers):
            layer.parameters[SCALES] = str(layer.number(SCALES) + REQUANTIZES)
            weight.output_scale = scales.pop()
        elif _is_miscomputed(layer):
            weight.parts = layer.number("7")
            at = layers.index(layer)
            layers[at : at + 1] = _apart(layer)


def _is_miscomputed(layer: Layer) -> bool:
    """Whether ncnn yields garbage for ``layer``, which is in integers and yields floats.

    On x86 (1.0.20261020) a grouped convolution makes room for 4 channels at a time where each of its groups writes 8.
    """
    groups, outputs = layer.number("7", 1), layer.number("0")
    depthwise = groups == outputs == layer.number("6") // (layer.number("1") * layer.number("11", layer.number("1")))
    return groups > 1 and not depthwise and outputs // groups % 8 == 0


def _apart(layer: Layer) -> list[Layer]:
    """A grouped convolution as one convolution per group, with what hands them their channels and joins the results."""
    groups = layer.number("7")
    read, made = ([f"{layer.name}_{side}{n}" for n in range(groups)] for side in ("in", "out"))
    equal = ",".join([str(groups), *["-233"] * groups])
    settings = {key: value for key, value in layer.parameters.items() if key != "7"}
    settings |= {"0": str(layer.number("0") // groups), "6": str(layer.number("6") // groups), SCALES: "2"}
    return [
        Layer("Slice", f"{layer.name}_slice", layer.bottoms, read, {"-23300": equal, "1": "0"}),
        *(
            Layer("Convolution", f"{layer.name}_{n}", [x], [y], dict(settings))
            for n, (x, y) in enumerate(zip(read, made, strict=True))
        ),
        Layer("Concat", f"{layer.name}_concat", made, layer.tops, {"0": "0"}),
    ]


def table(weights: Sequence[Weight]) -> str:
    """The calibration table that ncnn2int8 reads: scales of weights, then scales of what layers read."""
    lines: list[str] = []
    candidates = [(weight.layer.name, weight) for weight in weights if weight.layer and weight.integers is not None]
    for name, weight in candidates:
        lines.append(f"{name}_param_0 " + " ".join(f"{scale:.9g}" for scale in weight_scales(weight)))
    for name, weight in candidates:
        lines.append(f"{name} {weight.input_scale:.9g}")
    return "\n".join([*lines, ""])
