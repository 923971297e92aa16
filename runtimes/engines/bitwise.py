"""Layers of 1- and 2-bit weights by popcounts, all else by ONNX Runtime, in one session.

A file has a node ``BitConv`` or ``BitGemm`` of the domain ``edgepress`` for each such layer, and a function of that
name that says the same in standard operators. ONNX Runtime alone runs those functions, in floats. Here they are left
out of what it is given, and the nodes go to operators of a library (``runtimes/bitwise``), compiled when first needed.
A session for each piece between two bit layers would cost 6 us for every cut (the last line that
``benchmarks.bitwise_kernels`` prints), copy what passes it, and optimize and plan the memory of each piece alone.

Without a compiler, ONNX Runtime runs the functions: `Session.kernels`, the version and a warning say so. The variable
EDGEPRESS_BITWISE names kernels (avx512, avx2, neon, scalar) or takes none of them (none).
"""

from __future__ import annotations

import os
import warnings
from dataclasses import replace
from pathlib import Path

import onnxruntime as ort

from ..bitwise.build import BuildFailed, cached_library, choose, compiler, library
from ..bitwise.wire import bit_layers, without_functions
from ..errors import InvalidInputs
from ..runtime import Arrays, ExecutedGraph, Node, Options
from . import onnxruntime

TITLE = "bitwise"
PACKAGE = "onnxruntime"
SUFFIXES = (".bits.onnx",)
INSTALL = "pip install onnxruntime"

KERNELS = "EDGEPRESS_BITWISE"
NONE = "none"
_FOLDER = "session.model_external_initializers_file_folder_path"


def version() -> str:
    """Return the version of ONNX Runtime, and with which kernels bit layers run; nothing is compiled for that."""
    return f"{onnxruntime.version()}, bit layers: {_state()}"


def parts(file: Path) -> tuple[Path, ...]:
    """Return the file and the files that hold its external tensors."""
    return onnxruntime.parts(file)


def load(file: Path, options: Options) -> Session:
    """Return ``file`` as a session with ``options.threads`` threads; raises InvalidModel."""
    return Session(file, options)


class Session(onnxruntime.Session):
    """A file loaded into ONNX Runtime with the operators of bit layers; see `runtimes.runtime.Runtime`.

    ``kernels`` names those that bit layers run with; it is "none" where the file has no such layers, and "none: ..."
    with the reason where ONNX Runtime runs their functions in floats.
    """

    kernels: str = NONE

    def executed_graph(self, inputs: Arrays | None = None, runs: int = 1) -> ExecutedGraph:
        """Return the nodes that were executed; those of bit layers say which bits and which kernels, as integers."""
        graph = super().executed_graph(inputs, runs)
        return ExecutedGraph(tuple(self._named(node) for node in graph.nodes))

    def _source(self, settings: ort.SessionOptions) -> str | bytes:
        content = self._file.read_bytes()
        try:
            self._layers = bit_layers(content)
        except ValueError:  # no ONNX file: ONNX Runtime says what is wrong with it
            self._layers = {}
        if not self._layers:
            return super()._source(settings)
        try:
            built, self.kernels = _kernels()
        except BuildFailed as error:
            if self.kernels == NONE:  # not told yet
                self.kernels = f"{NONE}: {error}"
                warnings.warn(f"{self._file}: its bit layers run in floats: {error}", RuntimeWarning, stacklevel=2)
            return super()._source(settings)
        settings.register_custom_ops_library(str(built))
        # Files beside the model are found by its folder, which bytes do not have.
        settings.add_session_config_entry(_FOLDER, str(self._file.parent))
        return without_functions(content)

    def _named(self, node: Node) -> Node:
        if node.op not in ("BitConv", "BitGemm") or node.name not in self._layers:
            return node
        return replace(node, op=f"{node.op} {self._layers[node.name]} {self.kernels}", kind="integer")


def _kernels() -> tuple[Path, str]:
    """The library, and which of its kernels were chosen.

    Raises:
        BuildFailed: there is no library, or none is wanted.
        InvalidInputs: those that are wanted do not run here.
    """
    wanted = os.environ.get(KERNELS, "")
    if wanted == NONE:
        raise BuildFailed(f"{KERNELS} is {NONE}")
    built = library()
    chosen = choose(built, wanted)
    if chosen is None:
        raise InvalidInputs(f"{KERNELS}: {wanted!r} does not run here: expected avx512, avx2, neon, scalar or {NONE}")
    return built, chosen


def _state() -> str:
    wanted = os.environ.get(KERNELS, "")
    if wanted == NONE:
        return f"in floats ({KERNELS} is {NONE})"
    try:
        built = cached_library()
        if built is None:
            return f"kernels are compiled by {compiler()} when first needed"
        return f"kernels {choose(built, wanted)}"
    except BuildFailed as error:
        return f"in floats ({error})"
