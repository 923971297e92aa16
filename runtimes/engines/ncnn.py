"""ncnn on the CPU: a .param file with the .bin file of its weights beside it.

A blob of ncnn is one sample: `run` goes through the batch sample by sample. The two files are described in
https://github.com/Tencent/ncnn/wiki/param-and-model-file-structure.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import ncnn
import numpy as np

from ..errors import InvalidInputs, InvalidModel
from ..runtime import Array, Arrays, ExecutedGraph, Node, Options, TensorSpec, check_inputs, one_line, random_inputs

TITLE = "ncnn"
PACKAGE = "ncnn"
SUFFIXES = (".param",)
WEIGHTS = ".bin"
INSTALL = "pip install ncnn"
NATIVE_TOOL = "benchncnn"
TARGETS = {
    # Integers are what convolutions and linear layers read, and their weights; all between them is in float. So are
    # depthwise convolutions, whose kernels are slower in integers than in float on x86.
    "ncnn": {
        "integers": {
            "activation": "int8",
            "symmetric": True,
            "narrow": True,
            "per_group": True,
            "products_only": True,
            "float_depthwise": True,
        }
    }
}

MAGIC = "7767517"
HALF_TAG = 0x01306B47
"""Stands before weights that are stored as float16."""

# Parameter 8 of a layer: its weights are int8, and over 100 its result is as well.
INTEGER_SCALES = "8"
IN_INTEGERS = {"Convolution", "ConvolutionDepthWise", "InnerProduct"}

# Parameter 31 of a layer: features of ncnn that it does without, bit by bit.
WITHOUT, WINOGRAD = "31", 1 << 6

# Layers that convert, move or reshape data and compute nothing.
MOVES = {
    "Cast",
    "Concat",
    "CopyTo",
    "Crop",
    "Dequantize",
    "ExpandDims",
    "Flatten",
    "Flip",
    "Fold",
    "MemoryData",
    "Noop",
    "Packing",
    "Padding",
    "Permute",
    "PixelShuffle",
    "Quantize",
    "Reorg",
    "Requantize",
    "Reshape",
    "ShuffleChannel",
    "Slice",
    "Split",
    "Squeeze",
    "Tile",
    "Unfold",
}


def version() -> str:
    """Return the version of ncnn."""
    return str(ncnn.__version__)


def parts(file: Path) -> tuple[Path, ...]:
    """Return the file and the one that holds its weights."""
    return tuple(path for path in (file, _weights(file)) if path.is_file())


def load(file: Path, options: Options) -> Session:
    """Return ``file`` as a network with ``options.threads`` threads; raises InvalidModel."""
    return Session(file, options)


@dataclass(frozen=True)
class Layer:
    """A line of a .param file: an operation, the blobs that it reads and writes, its parameters by number."""

    kind: str
    name: str
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    parameters: Mapping[str, str]

    @property
    def in_integers(self) -> bool:
        """Return whether ncnn multiplies integers in it."""
        return self.kind in IN_INTEGERS and self.parameters.get(INTEGER_SCALES, "0") != "0"


def layers_of(text: str) -> tuple[Layer, ...]:
    """Return the layers of a .param file.

    Raises:
        ValueError: it is none, or a part of it is missing.

    >>> layers_of("7767517\\n1 1\\nInput in0 0 1 in0 0=8\\n")[0].tops
    ('in0',)
    """
    magic, _, rest = text.partition("\n")
    if magic.strip() != MAGIC:
        raise ValueError(f"the first line is not {MAGIC}")
    counts, _, body = rest.partition("\n")
    lines = body.splitlines()
    if not text.endswith("\n") or len(lines) != int(counts.split()[0]):
        raise ValueError("lines are missing")
    return tuple(_layer(line.split()) for line in lines)


def _layer(words: list[str]) -> Layer:
    kind, name, reads, writes = words[0], words[1], int(words[2]), int(words[3])
    blobs = words[4 : 4 + reads + writes]
    parameters = dict(word.split("=", 1) for word in words[4 + reads + writes :])
    if len(blobs) != reads + writes:
        raise ValueError(f"layer {name} names {len(blobs)} blobs, not {reads + writes}")
    return Layer(kind, name, tuple(blobs[:reads]), tuple(blobs[reads:]), parameters)


class Session:
    """A file loaded into ncnn; see `runtimes.runtime.Runtime`."""

    def __init__(self, file: Path, options: Options) -> None:
        self._file = file
        self._layers = _layers(file)
        self._net: ncnn.Net | None = _open(file, self._layers, options)
        self.inputs = tuple(_input(file, each) for each in self._layers if each.kind == "Input")
        blobs = _run(file, self._net, self._output_names, _zeros(self.inputs))
        # The first dimension is the batch, which no blob has.
        self.outputs = tuple(
            TensorSpec(name, (None, *blob.shape), blob.dtype.name)
            for name, blob in zip(self._output_names, blobs, strict=True)
        )

    @property
    def _output_names(self) -> tuple[str, ...]:
        read = {name for layer in self._layers for name in layer.bottoms}
        names = (name for layer in self._layers for name in layer.tops if name not in read)
        return tuple(sorted(names, key=lambda name: (len(name), name)))

    def run(self, inputs: Arrays) -> dict[str, Array]:
        """Return the outputs by name, in the order of `outputs`; raises InvalidInputs for a wrong name or array."""
        if self._net is None:
            raise InvalidModel(f"{self._file}: the runtime is closed")
        check_inputs(self.inputs, inputs)
        names = [spec.name for spec in self.outputs]
        samples = [_run(self._file, self._net, names, sample) for sample in _samples(inputs)]
        if not samples:
            return {spec.name: np.zeros((0, *_sizes(spec)), spec.dtype) for spec in self.outputs}
        return {name: np.stack(blobs) for name, blobs in zip(names, zip(*samples, strict=True), strict=True)}

    def executed_graph(self, inputs: Arrays | None = None, runs: int = 1) -> ExecutedGraph:
        """Return the layers of the file, all of which ncnn executes, with the arithmetic that it has for each.

        ncnn has no profiler: a layer's time is that of asking for its result when all before it are there, of the
        first sample.
        """
        if self._net is None:
            raise InvalidModel(f"{self._file}: the runtime is closed")
        arrays = random_inputs(self.inputs) if inputs is None else inputs
        check_inputs(self.inputs, arrays)
        sample = next(_samples(arrays), None) or _zeros(self.inputs)
        measured = [_profile(self._file, self._net, self._layers, sample) for _ in range(runs)]
        durations = np.percentile(np.asarray([[ms for ms, _ in each] for each in measured]), 25, axis=0)
        executed = [layer for layer in self._layers if layer.kind != "Input"]
        return ExecutedGraph(
            tuple(
                Node(layer.name, layer.kind, _kind(layer, bits), float(ms), TITLE)
                for layer, (_, bits), ms in zip(executed, measured[0], durations, strict=True)
            )
        )

    def close(self) -> None:
        """Free the network."""
        if self._net is not None:
            self._net.clear()
        self._net = None


def _weights(file: Path) -> Path:
    return file.with_suffix(WEIGHTS)


def _layers(file: Path) -> tuple[Layer, ...]:
    try:
        return layers_of(file.read_text(encoding="utf-8"))
    except (ValueError, IndexError, UnicodeDecodeError) as error:
        raise InvalidModel(f"{file}: this is no whole .param file, export it again ({one_line(error)})") from error


def _open(file: Path, layers: tuple[Layer, ...], options: Options) -> ncnn.Net:
    weights = _weights(file)
    if not weights.is_file():
        raise InvalidModel(f"{file}: its weights are missing: expected {weights.name} beside it")
    net = ncnn.Net()
    net.opt.num_threads = options.threads
    net.opt.use_vulkan_compute = False
    # ncnn would compute in 16 bits wherever the processor can, whatever the file says.
    half = not any(layer.in_integers for layer in layers) and _stores_half(weights)
    for name in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic"):
        setattr(net.opt, name, half)
    for name in ("use_bf16_packed", "use_bf16_storage"):
        if hasattr(net.opt, name):
            setattr(net.opt, name, False)
    with _said() as said:
        failed = net.load_param_mem(_tuned(file, layers)) or net.load_model(str(weights))
    if failed:
        raise InvalidModel(
            f"{file}: ncnn {version()} cannot load it with {weights.name}, export it again ({said() or failed})"
        )
    return net


def _tuned(file: Path, layers: tuple[Layer, ...]) -> str:
    """The .param file; where the processor multiplies int8 in one step, convolutions in integers keep to that.

    ncnn would take Winograd's algorithm, which multiplies less, but 16-bit integers: 25 % slower on ResNet-18.
    """
    text = file.read_text(encoding="utf-8")
    if not _multiplies_int8():
        return text
    lines = text.splitlines()
    for number, layer in enumerate(layers, start=2):
        if layer.in_integers and layer.kind == "Convolution" and WITHOUT not in layer.parameters:
            lines[number] += f" {WITHOUT}={WINOGRAD}"
    return "\n".join([*lines, ""])


def _multiplies_int8() -> bool:
    """Whether this is an x86 processor with VNNI; False where the system does not tell."""
    with suppress(OSError):
        return bool(
            re.search(r"^flags\s*:.*\bavx(512)?_vnni\b", Path("/proc/cpuinfo").read_text("utf-8"), re.MULTILINE)
        )
    return False


def _stores_half(weights: Path) -> bool:
    """Whether there are float16 weights. As a float32 the tag would be 3e-38, which no trained weight is."""
    size = weights.stat().st_size // 4
    return bool(size) and bool((np.memmap(weights, "<u4", "r", shape=(size,)) == HALF_TAG).any())


def _input(file: Path, layer: Layer) -> TensorSpec:
    dimensions = [
        int(layer.parameters.get(key, "0")) for key in ("2", "11", "1", "0")
    ]  # channels, depth, height, width
    sizes = tuple(size for size in dimensions if size)
    if not sizes:
        raise InvalidModel(f"{file}: the line of {layer.name} tells no shape: add 0=width 1=height 2=channels to it")
    return TensorSpec(layer.tops[0], (None, *sizes), "float32")


def _sizes(spec: TensorSpec) -> tuple[int, ...]:
    return tuple(size for size in spec.shape[1:] if size is not None)


def _zeros(specs: tuple[TensorSpec, ...]) -> dict[str, Array]:
    return {spec.name: np.zeros(_sizes(spec), spec.dtype) for spec in specs}


def _samples(inputs: Arrays) -> Iterator[dict[str, Array]]:
    counts = {len(value) for value in inputs.values()}
    if len(counts) > 1:
        raise InvalidInputs(f"inputs: expected as many samples in each, got {', '.join(map(str, sorted(counts)))}")
    for number in range(counts.pop()):
        yield {name: value[number] for name, value in inputs.items()}


def _feed(net: ncnn.Net, sample: Arrays, *, keep: bool = False) -> ncnn.Extractor:
    extractor = net.create_extractor()
    extractor.set_light_mode(not keep)
    for name, value in sample.items():
        # A copy in ncnn's memory: it computes in place.
        extractor.input(name, ncnn.Mat(np.ascontiguousarray(value)).clone())
    return extractor


def _run(file: Path, net: ncnn.Net, names: tuple[str, ...] | list[str], sample: Arrays) -> list[Array]:
    extractor = _feed(net, sample)
    specs = []
    for name in names:
        failed, blob = extractor.extract(name)
        if failed:
            raise InvalidModel(f"{file}: ncnn failed to compute {name} (code {failed})")
        specs.append(np.array(blob))
    return specs


def _profile(file: Path, net: ncnn.Net, layers: tuple[Layer, ...], sample: Arrays) -> list[tuple[float, int]]:
    """The milliseconds of each layer but the inputs, and the bits of an element that it yields, as ncnn stores it."""
    extractor = _feed(net, sample, keep=True)
    specs = []
    for layer in layers:
        if layer.kind == "Input":
            continue
        start = time.perf_counter()
        failed, blob = extractor.extract(layer.tops[0], 1)  # 1: as it is, not converted to float32
        if failed:
            raise InvalidModel(f"{file}: ncnn failed to compute {layer.tops[0]} (code {failed})")
        specs.append(((time.perf_counter() - start) * 1000, int(blob.elembits())))
    return specs


def _kind(layer: Layer, bits: int) -> Literal["integer", "float", "other"]:
    if layer.kind in MOVES:
        return "other"
    return "integer" if layer.in_integers or bits == 8 else "float"


@contextmanager
def _said() -> Iterator[_Said]:
    """Within: what ncnn prints goes to a file; the value tells it in one line."""
    said = _Said()
    with tempfile.TemporaryFile() as file:
        sys.stderr.flush()
        stderr = os.dup(2)
        try:
            os.dup2(file.fileno(), 2)
            yield said
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            with suppress(OSError):
                file.seek(0)
                said.text = file.read().decode("utf-8", "replace")


class _Said:
    """What was printed, once it is known."""

    text = ""

    def __call__(self) -> str:
        return one_line(ValueError(self.text)) if self.text.strip() else ""
