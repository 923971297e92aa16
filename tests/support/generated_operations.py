"""The operations of generated networks: each writes lines that fit to a value, or returns None where it cannot."""

from __future__ import annotations

from collections.abc import Callable

from tests.support.generated_program import BATCH, Value, Writer


def widened(w: Writer, x: Value, channels: int) -> str:
    """``x`` brought to ``channels`` by a 1x1 convolution or a linear layer, as code."""
    if x.channels == channels:
        return x.name
    kind = f"nn.Conv2d({x.channels}, {channels}, 1)" if x.layout == "map" else f"nn.Linear({x.channels}, {channels})"
    return f"{w.layer(kind, 1)}({x.name})"


# What every layout knows.


def activation(w: Writer, x: Value) -> Value:
    spatial = x.layout != "tokens"
    names = ("torch.relu({})", "F.gelu({})", "F.silu({})", "F.hardswish({})", "F.relu6({} * 2)", "torch.tanh({})")
    code = w.pick((*names, "prelu") if spatial else names)
    if code == "prelu":
        code = w.layer(f"nn.PReLU({w.pick((x.channels, 1))})") + "({})"
    return w.emit(code.format(x.name), x)


def add(w: Writer, x: Value) -> Value | None:
    other = w.partner(x, same_width=False)
    return None if other is None else w.emit(f"{x.name} + {widened(w, other, x.channels)}", x)


def multiply(w: Writer, x: Value) -> Value | None:
    other = w.partner(x, same_width=True)
    return None if other is None else w.emit(f"{x.name} * torch.sigmoid({other.name})", x)


def concatenate(w: Writer, x: Value) -> Value | None:
    others = [w.partner(x, same_width=False) for _ in range(w.pick((1, 2)))]
    parts = [x, *(v for v in others if v is not None)]
    width = sum(v.channels for v in parts)
    if len(parts) < 2 or width > 24:
        return None
    names = ", ".join(v.name for v in parts)
    if x.layout == "tokens":
        return w.emit(f"torch.cat([{names}], -1)", x, x.shape[0], width)
    return w.emit(f"torch.cat([{names}], 1)", x, width, *x.shape[1:])


def halves(w: Writer, x: Value) -> Value | None:
    """A split into two by one of the ways to write it; the halves meet, gate, are swapped or go on alone."""
    if x.channels % 2 or x.channels < 4:
        return None
    dim = -1 if x.layout == "tokens" else 1
    half = x.channels // 2
    ways = [f"{x.name}.chunk(2, {dim})", f"{x.name}.split({x.name}.shape[{dim}] // 2, dim={dim})"]
    ways += [f"torch.split({x.name}, {half}, {dim})", f"torch.split({x.name}, [{half}, {half}], {dim})"]
    if dim == 1:
        middle = f"{x.name}.shape[1] // 2"
        ways += [f"({x.name}[:, : {middle}], {x.name}[:, {middle} :])", f"({x.name}[:, :{half}], {x.name}[:, {half}:])"]
    a, b = w.line(w.pick(ways), 2).split(", ")
    smaller = (x.shape[0], half) if dim == -1 else (half, *x.shape[1:])
    use = w.pick(("gate", "swap", "both", "one", "residual"))
    if use == "gate":
        return w.emit(f"{a} * torch.sigmoid({b})", x, *smaller)
    if use == "swap":
        return w.emit(f"torch.cat([{b}, torch.relu({a})], {dim})", x)
    first, second = (Value(name, x.layout, smaller) for name in (a, b))
    if use == "one":
        return w.emit(f"torch.relu({b})", x, *smaller)
    width = w.width()
    left = w.emit(widened(w, first, width) if width != half else f"{a} * 2", first, *resized(first, width))
    if use == "both":
        right = widened(w, second, width)
        return w.emit(f"{left.name} + {right}", left)
    return w.emit(f"torch.cat([{left.name}, {b}], {dim})", x, *resized(x, width + half))


def resized(x: Value, channels: int) -> tuple[int, ...]:
    return (x.shape[0], channels) if x.layout == "tokens" else (channels, *x.shape[1:])


def uneven(w: Writer, x: Value) -> Value | None:
    """Parts of unequal size, by numbers in the code; what goes on is a part, or all parts in another order."""
    if x.channels < 3:
        return None
    dim = -1 if x.layout == "tokens" else 1
    a, b = w.line(f"{x.name}.split([1, {x.channels - 1}], dim={dim})", 2).split(", ")
    if w.pick((True, False)):
        return w.emit(f"torch.cat([{b}, {a}], {dim})", x)
    return w.emit(f"torch.relu({b})", x, *resized(x, x.channels - 1))


def scale(w: Writer, x: Value) -> Value:
    """Layer scale: a learnt factor per channel, and a shift."""
    shape = (1, x.channels, 1, 1) if x.layout == "map" and w.pick((True, False)) else (x.channels,)
    factor, shift = w.parameter(*shape), w.parameter(*shape)
    if x.layout == "map" and len(shape) == 1:
        return w.emit(f"{x.name} * {factor}[:, None, None] + {shift}.view(1, -1, 1, 1)", x)
    return w.emit(f"{x.name} * {factor} + {shift}", x)


def position(w: Writer, x: Value) -> Value:
    return w.emit(f"{x.name} + {w.parameter(1, *x.shape)}", x)


# Maps.


def convolution(w: Writer, x: Value) -> Value:
    c, size, out = x.channels, x.shape[1], w.width()
    kernel, stride = w.pick((3, 1)), w.pick((1, 2)) if size >= 4 and size % 2 == 0 else 1
    bias = w.pick((True, False))
    layer = w.layer(f"nn.Conv2d({c}, {out}, {kernel}, {stride}, {kernel // 2}, bias={bias})", 1)
    return w.emit(f"{layer}({x.name})", x, out, size // stride, size // stride)


def grouped(w: Writer, x: Value) -> Value | None:
    groups = [g for g in (2, 3, 4) if x.channels % g == 0 and x.channels > g]
    if not groups:
        return None
    g = w.pick(groups)
    out = g * w.pick((2, 1, 3))
    layer = w.layer(f"nn.Conv2d({x.channels}, {out}, 3, padding=1, groups={g})", 1)
    return w.emit(f"{layer}({x.name})", x, out, *x.shape[1:])


def depthwise(w: Writer, x: Value) -> Value | None:
    c, factor = x.channels, w.pick((1, 2)) if x.channels <= 6 else 1
    if c == 1:
        return None
    layer = w.layer(f"nn.Conv2d({c}, {c * factor}, 3, padding=1, groups={c})")
    return w.emit(f"{layer}({x.name})", x, c * factor, *x.shape[1:])


def transposed(w: Writer, x: Value) -> Value:
    c, size = x.channels, x.shape[1]
    stride = 2 if size <= 4 else 1
    way = w.pick(("plain", "depthwise", "grouped"))
    shape = "2, stride=2" if stride == 2 else "3, padding=1"
    if way == "depthwise" and c > 1:
        out, layer = c, w.layer(f"nn.ConvTranspose2d({c}, {c}, {shape}, groups={c})")
    elif way == "grouped" and c % 2 == 0 and c > 2:
        out = 2 * w.pick((2, 3))
        layer = w.layer(f"nn.ConvTranspose2d({c}, {out}, {shape}, groups=2)", 0)
    else:
        out = w.width()
        layer = w.layer(f"nn.ConvTranspose2d({c}, {out}, {shape})", 0)
    return w.emit(f"{layer}({x.name})", x, out, size * stride, size * stride)


def functional(w: Writer, x: Value) -> Value:
    out = w.width()
    weight, bias = w.parameter(out, x.channels, 3, 3, consumes=1), w.parameter(out)
    return w.emit(f"F.conv2d({x.name}, {weight}, {bias}, padding=1)", x, out, *x.shape[1:])


def twice(w: Writer, x: Value) -> Value:
    """One layer called two times, with or without its own normalization between."""
    name = w.layer(f"nn.Conv2d({x.channels}, {x.channels}, 3, padding=1)", 1)
    middle = w.emit(f"torch.relu({name}({x.name}))", x)
    return w.emit(f"{name}({middle.name})" + (f" + {x.name}" if w.pick((True, False)) else ""), x)


def residual(w: Writer, x: Value) -> Value:
    c, inner = x.channels, w.width()
    a = w.layer(f"nn.Conv2d({c}, {inner}, 3, padding=1, bias=False)", 1)
    norm = w.layer(f"nn.BatchNorm2d({inner})")
    b = w.layer(f"nn.Conv2d({inner}, {c}, 3, padding=1)", 1)
    return w.emit(f"{x.name} + {b}(torch.relu({norm}({a}({x.name}))))", x)


def dense(w: Writer, x: Value) -> Value | None:
    if x.channels > 12:
        return None
    growth = w.width()
    norm, layer = w.layer(f"nn.BatchNorm2d({x.channels})"), w.layer(f"nn.Conv2d({x.channels}, {growth}, 3, 1, 1)", 1)
    code = f"torch.cat([{x.name}, {layer}(F.relu({norm}({x.name})))], 1)"
    return w.emit(code, x, x.channels + growth, *x.shape[1:])


def batch_norm(w: Writer, x: Value) -> Value:
    dims = {"map": 2, "vector": 1}[x.layout]
    return w.emit(f"{w.layer(f'nn.BatchNorm{dims}d({x.channels})')}({x.name})", x)


def group_norm(w: Writer, x: Value) -> Value:
    groups = w.pick([g for g in (2, 1, 3, 4) if x.channels % g == 0])
    return w.emit(f"{w.layer(f'nn.GroupNorm({groups}, {x.channels})')}({x.name})", x)


def instance_norm(w: Writer, x: Value) -> Value | None:
    if x.shape[1] < 2:
        return None
    return w.emit(f"{w.layer(f'nn.InstanceNorm2d({x.channels}, affine=True)')}({x.name})", x)


def channels_last(w: Writer, x: Value) -> Value:
    """To (N, H, W, C) and back, with a layer norm and a linear layer there, as ConvNeXt has them."""
    inner, out = w.width(), x.channels
    code = f"{x.name}.permute(0, 2, 3, 1)"
    if w.pick((True, False)):
        code = f"{w.layer(f'nn.LayerNorm({x.channels})')}({code})"
    first, second = w.layer(f"nn.Linear({x.channels}, {inner})", 1), w.layer(f"nn.Linear({inner}, {out})", 1)
    code = f"{second}(F.gelu({first}({code}))).permute(0, 3, 1, 2)"
    return w.emit(code + (f" + {x.name}" if w.pick((True, False)) else ""), x)


def shuffle(w: Writer, x: Value) -> Value | None:
    groups = [g for g in (2, 3) if x.channels % g == 0 and x.channels > g]
    if not groups:
        return None
    g, (c, h, s) = w.pick(groups), x.shape
    n, d = f"{x.name}.shape[0]", f"{x.name}.shape[1]"
    ways = (
        f"nn.functional.channel_shuffle({x.name}, {g})",
        f"{x.name}.view({n}, {g}, {d} // {g}, {h}, {s}).transpose(1, 2).reshape({n}, {d}, {h}, {s})",
        f"{x.name}.reshape({n}, {g}, -1, {h}, {s}).transpose(1, 2).flatten(1, 2)",
    )
    return w.emit(w.pick(ways), x, c, h, s)


def pixel_shuffle(w: Writer, x: Value) -> Value | None:
    c, h, s = x.shape
    if c % 4 == 0 and h <= 4:
        return w.emit(f"F.pixel_shuffle({x.name}, 2)", x, c // 4, 2 * h, 2 * s)
    if c <= 4 and h >= 4 and h % 2 == 0:
        return w.emit(f"F.pixel_unshuffle({x.name}, 2)", x, 4 * c, h // 2, s // 2)
    return None


def excite(w: Writer, x: Value) -> Value:
    """Squeeze and excitation, with linear layers or 1x1 convolutions; or one gate per position."""
    c, inner = x.channels, w.pick((2, 4))
    way = w.pick(("linear", "conv", "spatial", "mean"))
    if way == "linear":
        a, b = w.layer(f"nn.Linear({c}, {inner})", 1), w.layer(f"nn.Linear({inner}, {c})", 1)
        gate = f"{b}(torch.relu({a}({x.name}.mean((2, 3)))))[:, :, None, None]"
    elif way == "conv":
        a, b = w.layer(f"nn.Conv2d({c}, {inner}, 1)", 1), w.layer(f"nn.Conv2d({inner}, {c}, 1)", 1)
        gate = f"{b}(torch.relu({a}(F.adaptive_avg_pool2d({x.name}, 1))))"
    elif way == "spatial":
        gate = f"{w.layer(f'nn.Conv2d({c}, 1, 3, padding=1)', 1)}({x.name})"
    else:
        gate = f"{x.name}.mean(1, keepdim=True)"
        w.averaging = True
    return w.emit(f"{x.name} * torch.sigmoid({gate})", x)


def resample(w: Writer, x: Value) -> Value | None:
    c, h, s = x.shape
    if h >= 4 and h % 2 == 0:
        code = w.pick(("F.max_pool2d({}, 2)", "F.avg_pool2d({}, 2)", "F.interpolate({}, scale_factor=0.5)"))
        return w.emit(code.format(x.name), x, c, h // 2, s // 2)
    return w.emit(f"F.interpolate({x.name}, scale_factor=2, mode='bilinear')", x, c, 2 * h, 2 * s) if h <= 3 else None


def padded(w: Writer, x: Value) -> Value | None:
    """Zero channels beside those that are there, as a shortcut of option A has them."""
    return w.emit(f"F.pad({x.name}, (0, 0, 0, 0, 1, 1))", x, x.channels + 2, *x.shape[1:]) if x.channels <= 8 else None


def by_position(w: Writer, x: Value) -> Value | None:
    """Channels and rows picked by numbers."""
    if x.channels < 3 or x.shape[1] < 3:
        return None
    ways = (
        (f"{x.name}[:, 1:3]", (2, *x.shape[1:])),
        (f"{x.name}[:, ::2]", ((x.channels + 1) // 2, *x.shape[1:])),
        (f"{x.name}[:, :, 1:3, 0:2]", (x.channels, 2, 2)),
        (f"{x.name}[:, [2, 0]]", (2, *x.shape[1:])),
    )
    code, shape = w.pick(ways)
    return w.emit(code, x, *shape)


def pooled(w: Writer, x: Value) -> Value:
    ways = ("{}.mean((2, 3))", "F.adaptive_avg_pool2d({}, 1).flatten(1)", "{}.amax((2, 3))")
    return w.emit(w.pick(ways).format(x.name), x, x.channels, layout="vector")


def flattened(w: Writer, x: Value) -> Value | None:
    c, h, s = x.shape
    if c * h * s > 160:
        return None
    ways = (f"{x.name}.flatten(1)", f"{x.name}.reshape({x.name}.shape[0], -1)")
    return w.emit(w.pick(ways), x, c * h * s, layout="vector")


def to_tokens(w: Writer, x: Value) -> Value | None:
    c, h, s = x.shape
    if h * s > 36:
        return None
    ways = (f"{x.name}.flatten(2).transpose(1, 2)", f"{x.name}.permute(0, 2, 3, 1).reshape({BATCH}, {h * s}, -1)")
    return w.emit(w.pick(ways), x, h * s, c, layout="tokens")


# Tokens and vectors.


def linear(w: Writer, x: Value) -> Value:
    out = w.width()
    way = w.pick(("layer", "product", "functional"))
    if way == "product":
        code = f"{x.name} @ {w.parameter(x.channels, out, consumes=0)}"
    elif way == "functional":
        weight, bias = w.parameter(out, x.channels, consumes=1), w.parameter(out)
        code = f"F.linear({x.name}, {weight}, {bias})"
    else:
        code = f"{w.layer(f'nn.Linear({x.channels}, {out}, bias={w.pick((True, False))})', 1)}({x.name})"
    return w.emit(code, x, *resized(x, out))


def layer_norm(w: Writer, x: Value) -> Value:
    return w.emit(f"{w.layer(f'nn.LayerNorm({x.channels})')}({x.name})", x)


def perceptron(w: Writer, x: Value) -> Value:
    """The feed-forward half of a transformer: pre-norm, hidden layer (perhaps gated), residual."""
    c, inner = x.channels, w.width()
    gated = w.pick((False, True))
    norm = w.layer(f"nn.LayerNorm({c})")
    up, down = w.layer(f"nn.Linear({c}, {2 * inner if gated else inner})", 1), w.layer(f"nn.Linear({inner}, {c})", 1)
    hidden = f"{up}({norm}({x.name}))"
    if gated:
        a, b = w.line(f"{hidden}.chunk(2, -1)", 2).split(", ")
        hidden = f"F.silu({a}) * {b}"
    else:
        hidden = f"F.gelu({hidden})"
    return w.emit(f"{x.name} + {down}({hidden})", x)


def attention(w: Writer, x: Value) -> Value:
    """Self-attention with 1 or 2 heads: one projection or three, a fused product or one written out."""
    length, c = x.shape
    heads, size = w.pick((2, 1)), w.pick((4, 2, 3))
    inner = heads * size
    source = f"{w.layer(f'nn.LayerNorm({c})')}({x.name})" if w.pick((True, False)) else x.name
    grid = w.pick((f"{heads}, -1", f"-1, {size}"))
    n = f"{x.name}.shape[0]"
    way = w.pick(("separate", "fused", "chunked"))
    if way == "separate":
        layers = [w.layer(f"nn.Linear({c}, {inner})", 1) for _ in range(3)]
        w.vanishing += [layer.removeprefix("self.") for layer in layers]
        split = [w.line(f"{layer}({source}).view({n}, {length}, {grid}).transpose(1, 2)") for layer in layers]
    else:
        layer = w.layer(f"nn.Linear({c}, {3 * inner}, bias={w.pick((True, False))})", 1)
        w.vanishing.append(layer.removeprefix("self."))
        if way == "fused":
            code = f"{layer}({source}).reshape({n}, {length}, 3, {grid}).permute(2, 0, 3, 1, 4).unbind(0)"
            split = w.line(code, 3).split(", ")
        else:
            parts = w.line(f"{layer}({source}).chunk(3, dim=-1)", 3).split(", ")
            split = [w.line(f"{part}.reshape({n}, {length}, {grid}).transpose(1, 2)") for part in parts]
    q, k, v = split
    constant = size**-0.5
    ways = (
        f"F.scaled_dot_product_attention({q}, {k}, {v})",
        f"F.scaled_dot_product_attention({q}, {k}, {v}, scale={constant})",
        f"({q} @ {k}.transpose(-2, -1) * {constant}).softmax(-1) @ {v}",
        f"torch.softmax({q} @ {k}.transpose(-2, -1) * {k}.shape[-1] ** -0.5, dim=-1) @ {v}",
    )
    mixed = w.line(w.pick(ways))
    joined = w.pick((f"{mixed}.transpose(1, 2).flatten(2)", f"{mixed}.transpose(1, 2).reshape({n}, {length}, -1)"))
    out = f"{w.layer(f'nn.Linear({inner}, {c})', 1)}({joined})"
    return w.emit(f"{x.name} + {out}" if w.pick((True, False)) else out, x)


def class_token(w: Writer, x: Value) -> Value:
    token = w.parameter(1, 1, x.channels)
    code = f"torch.cat([{token}.expand({x.name}.shape[0], -1, -1), {x.name}], dim=1)"
    return w.emit(code, x, x.shape[0] + 1, x.channels)


def sequence_convolution(w: Writer, x: Value) -> Value:
    out = w.width()
    layer = w.layer(f"nn.Conv1d({x.channels}, {out}, 3, padding=1)", 1)
    return w.emit(f"{layer}({x.name}.transpose(1, 2)).transpose(1, 2)", x, x.shape[0], out)


def one_token(w: Writer, x: Value) -> Value:
    return w.emit(w.pick((f"{x.name}[:, 0]", f"{x.name}.mean(1)")), x, x.channels, layout="vector")


def to_map(w: Writer, x: Value) -> Value | None:
    side = round(x.shape[0] ** 0.5)
    if side * side != x.shape[0] or side < 2:
        return None
    code = f"{x.name}.transpose(1, 2).reshape({x.name}.shape[0], -1, {side}, {side})"
    return w.emit(code, x, x.channels, side, side, layout="map")


Operation = Callable[[Writer, Value], Value | None]
ANY: tuple[Operation, ...] = (activation, add, concatenate, halves, multiply, scale, position, uneven)
OPERATIONS: dict[str, tuple[Operation, ...]] = {
    "map": (
        convolution, residual, batch_norm, depthwise, grouped, transposed, functional, twice, dense, excite, shuffle,
        pixel_shuffle, group_norm, instance_norm, channels_last, resample, padded, by_position, to_tokens, flattened,
        pooled, *ANY,
    ),
    "tokens": (
        linear, attention, perceptron, layer_norm, class_token, sequence_convolution, to_map, one_token, *ANY,
    ),
    "vector": (linear, layer_norm, batch_norm, *ANY),
}  # fmt: skip
PRUNABLE = frozenset({"residual", "dense", "channels_last", "perceptron"})
"""Operations with a hidden layer of their own, which can always be cut unless it has one channel."""
