"""What every exporter is given and gives back, and each exporter, imported when it is asked for.

Which formats there are, `export.facts` tells. The packages of a format may be missing: `exporter` then tells what to
install.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from compress.errors import InvalidInput, PackageMissing
from compress.integers.encoding import Encoding
from compress.integers.plan import Plan, plan
from compress.integers.target import Target, target_named
from compress.siblings import runtimes

from .facts import formats
from .onnx.contents import Contents

Interface = Literal["float32", "int8", "uint8"]
Layout = Literal["nchw", "nhwc"]


@dataclass(frozen=True)
class Job:
    """What is to be written.

    Args:
        model: the network, in evaluation mode, its batch norms folded.
        example_inputs: what it runs on, (N, ...) each; the file has their shapes.
        target: whose integers the file has, by name.
        encodings: of the tensors that run in integers (or are stored in shorter floats), from the stage Quantize; none
            writes a float file.
        dynamic_batch: leave the batch size open, where network and engine allow it; else the inputs' own.
        dynamic_size: leave height and width of images open; a network or format that cannot refuses.
        interface: the type of inputs and outputs; integers only where everything between is in integers.
        layout: of images (N, C, H, W) at the file's inputs.
        labels: names of the classes, written into the file where the format has a place.
        metadata: likewise.
        opset: of ONNX; left out, the least that is enough.
        simplify: run the format's own simplifier, where it has one, and keep what computes the same.
        gpus: the kinds of GPUs that the file is built for, as `export.facts.Format.gpus` names them; left out, all.
        dla_core: of a deep learning accelerator that runs what it can, in formats that are built for one.
    """

    model: nn.Module
    example_inputs: tuple[Tensor, ...]
    target: str
    encodings: Mapping[str, Encoding] = field(default_factory=dict)
    dynamic_batch: bool = True
    dynamic_size: bool = False
    interface: Interface = "float32"
    layout: Layout = "nchw"
    labels: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    opset: int | None = None
    simplify: bool = False
    gpus: tuple[str, ...] = ()
    dla_core: int | None = None

    @property
    def integers(self) -> Target:
        """The integers that the engine wants."""
        return target_named(self.target)

    @functools.cached_property
    def plan(self) -> Plan:
        """Which tensors are integers in the file, and which ones; of a trace of ``model`` that is the plan's own.

        Raises:
            InvalidInput: the encodings are not of this network, or the engine has no integers that wide.
        """
        return plan(self.model, self.example_inputs, self.encodings, self.target)

    @property
    def in_half(self) -> bool:
        """Whether all weights that are encoded are 16-bit floats, so that the whole file may be."""
        return bool(self.encodings) and {encoding.kind for encoding in self.encodings.values()} == {"float16"}


Rules = tuple[Callable[[Any], Iterator[Any]], ...]
"""Each yields the tensors and nodes of an ONNX graph that break it: `export.rules.view.View` to `Violation`."""


class NotConvertible(InvalidInput):
    """A network cannot be written in a format, and ``reason``, in the converter's words, may name no operation."""

    def __init__(self, path: Path, what: str, reason: str = "") -> None:
        super().__init__(f"export {path}: {what}" + (f": {reason}" if reason else ""))
        self.reason = reason or what


@dataclass(frozen=True)
class Exported:
    """A file that was written.

    Args:
        file: the one that the engine is given.
        format: its name.
        size_bytes: of all files.
        beside: further files that belong to it.
        inputs: the names that the engine knows the network's inputs by, in the network's order.
        outputs: likewise.
        notes: what was asked for and not done, and why.
        opset: of the standard operations; of ONNX only.
        contents: operations, and where the bytes went, where the file tells.
        engine: that runs this file best, where it is not the format's own.
    """

    file: Path
    format: str
    size_bytes: int
    beside: tuple[Path, ...] = ()
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    opset: int | None = None
    contents: Contents | None = None
    engine: str | None = None


@dataclass(frozen=True)
class Trial:
    """An ONNX file that was given to an engine's own builder, to see what becomes of it.

    Args:
        built: whether there was an engine.
        seconds: that it took, or until it failed.
        message: of the builder, where it failed, with the node it names.
        size_bytes: of the engine.
        layers: of the engine; None where the builder does not tell.
        products: how many products of the file run in which numbers ("int8", "float16", "float32", "not told"); None
            where the builder tells of no layer.
        in_float: the nodes of products that run in floats.
    """

    built: bool
    seconds: float
    message: str = ""
    size_bytes: int | None = None
    layers: int | None = None
    products: Mapping[str, int] | None = None
    in_float: tuple[str, ...] = ()


@dataclass(frozen=True)
class InnerValue:
    """What a node inside a file computes, where a copy of the file gives it as an output.

    Args:
        name: of the output.
        layer: of the network, that the node belongs to.
        operation: of the node, in the words of the format.
        reads: the names of the inner values that it is computed from.
        scale: where the output is in integers, what a step is worth: one number, or one for each slice along ``axis``.
        zero_point: the integers that stand for 0, of the same shape.
    """

    name: str
    layer: str
    operation: str
    reads: tuple[str, ...] = ()
    scale: NDArray[np.float32] | None = None
    zero_point: NDArray[np.int32] | None = None
    axis: int = 1

    def real(self, value: NDArray[Any]) -> NDArray[np.float64]:
        """The numbers that an output of this value stands for."""
        if self.scale is None or self.zero_point is None:
            return value.astype(np.float64)
        shape = [1] * value.ndim
        if self.scale.size > 1:
            shape[self.axis] = -1
        scale, zero_point = (np.reshape(each, shape if each.size > 1 else ()) for each in (self.scale, self.zero_point))
        numbers: NDArray[np.float64] = np.multiply(value.astype(np.float64) - zero_point, scale, dtype=np.float64)
        return numbers


class Exporter(Protocol):
    """What each format's file defines, besides the facts about it that `export.facts` reads.

    Where the engine's builder needs no device, it is a :class:`Builder` as well.

    Two functions may be there for :class:`compress.deploy.clock.MachineClock`: ``write_layer(layer, precision, target,
    path)`` writes one layer without a conversion, and ``name_parts(file, named)`` writes a file again with its nodes
    named after the layers that they compute, and returns the layers of each part. One may be there for
    :mod:`compress.deploy.diagnosis`: ``expose_values(file, exposed)`` writes a file again with what its layers compute
    as further outputs, and returns an :class:`InnerValue` for each.
    """

    def export(self, job: Job, path: Path) -> Exported:
        """The account of the file that was written to ``path``: all of it, or nothing.

        Raises:
            InvalidInput: the network cannot be written in this format, or not as asked; says where and what to do.
            GateFailed: the conversion went wrong.
        """
        ...


class Builder(Exporter, Protocol):
    """What the file of a format with ``GPUS`` defines besides."""

    def try_build(self, file: Path, shapes: Sequence[tuple[int, ...]], gpus: tuple[str, ...]) -> Trial:
        """What the engine's own builder makes of an ONNX file.

        Args:
            shapes: of an example of each input, in order, for open dimensions.
            gpus: that the format's facts name; () for those that it takes by itself.

        Raises:
            InvalidInput: the file is no whole ONNX model.
        """
        ...


def rules_of(target: str) -> Rules:
    """What an ONNX file must keep to for ``target``: from the ``rules.py`` of a format for it; () where none has any.

    >>> len(rules_of("ort-x86")) > 3, rules_of("coreml")
    (True, ())
    """
    for form in formats().values():
        if target in form.targets and form.rules is not None:
            rules: Mapping[str, Rules] = importlib.import_module(form.rules, __package__).RULES
            if target in rules:
                return rules[target]
    return ()


def exporter(name: str) -> Exporter:
    """The module that writes the format ``name``, imported.

    Raises:
        InvalidInput: there is no such format, or its file is no Python or does not define what an exporter does.
        PackageMissing: what it needs is not installed, or does not load here.
    """
    known = formats()
    if name not in known:
        raise InvalidInput(f"format {name!r}: expected one of {', '.join(known)}")
    try:
        module = importlib.import_module(known[name].module, __package__)
    except (ImportError, OSError) as error:
        reason = " ".join(str(error).split())
        raise PackageMissing(f"format {name}: cannot be written here ({reason}); {known[name].install}") from error
    except Exception as error:
        raise InvalidInput(runtimes.errors.fault(known[name].file, error)) from error
    if not callable(getattr(module, "export", None)):
        raise InvalidInput(f"{known[name].file}: expected the function export(job, path); it has none")
    return cast(Exporter, module)
