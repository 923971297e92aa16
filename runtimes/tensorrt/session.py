"""An engine of TensorRT, or of TensorRT for RTX, loaded on an NVIDIA GPU and run with the documented Python API.

Unproven: no GPU has run it in a test; an imitation of the documented API has.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..devices.cuda import Cuda
from ..errors import InvalidInputs, InvalidModel
from ..runtime import Array, Arrays, ExecutedGraph, Node, TensorSpec, check_inputs, one_line, random_inputs
from .layers import layers_in
from .library import Library

_FITS = {
    False: "an engine runs on the GPU and the version that it was built for",
    True: "an engine runs on the kinds of GPUs and the version that it was built for",
}


class NotLoaded(InvalidModel):
    """An engine is of another version, of another GPU, or damaged."""


class Session:
    """An engine with a context of its own; see `runtimes.runtime.Runtime`."""

    def __init__(self, library: Library, cuda: Cuda, file: Path) -> None:
        self._library, self._api, self._cuda, self._file = library, library.api, cuda, file
        self._logger = library.logger()
        self._buffers: dict[str, tuple[int, int]] = {}
        self._api.init_libnvinfer_plugins(self._logger, "")
        self._runtime = self._api.Runtime(self._logger)
        self._engine: Any = self._runtime.deserialize_cuda_engine(file.read_bytes())
        if self._engine is None:
            raise NotLoaded(
                f"{file}: {self._library} cannot load it; {_FITS[library.ahead_of_time]}: build it again "
                f"here ({self._last_error()})"
            )
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        self.inputs = tuple(self._spec(name) for name in names if self._mode(name) == self._api.TensorIOMode.INPUT)
        self.outputs = tuple(self._spec(name) for name in names if self._mode(name) == self._api.TensorIOMode.OUTPUT)
        self._context: Any = self._new_context()
        self._stream: int | None = self._cuda.stream()

    def run(self, inputs: Arrays) -> dict[str, Array]:
        """Return the outputs by name; raises InvalidInputs for a wrong name, shape or dtype."""
        if self._stream is None:
            raise InvalidModel(f"{self._file}: the runtime is closed")
        check_inputs(self.inputs, inputs)
        return self._execute(self._context, inputs)

    def executed_graph(self, inputs: Arrays | None = None, runs: int = 1) -> ExecutedGraph | None:
        """Return the layers of the engine with the types that they read, timed by TensorRT's profiler.

        The copies to the GPU and back stand before and behind them, timed by CUDA's events.

        None where the engine was not built with detailed verbosity: then it knows names alone.
        """
        if self._stream is None:
            raise InvalidModel(f"{self._file}: the runtime is closed")
        arrays = random_inputs(self.inputs) if inputs is None else inputs
        check_inputs(self.inputs, arrays)
        copies = self._copies(arrays, runs)
        context, profiler = self._new_context(), self._library.profiler()
        context.profiler = profiler
        for _ in range(runs):
            self._execute(context, arrays)
        inspector = self._engine.create_engine_inspector()
        inspector.execution_context = context
        layers = layers_in(inspector.get_engine_information(self._api.LayerInformationFormat.JSON))
        if layers is None:
            return None
        timed = {name: float(np.percentile(ms, 25)) for name, ms in profiler.ms.items()}
        nodes = [Node(layer.name, layer.type, layer.kind, timed[layer.name]) for layer in layers if layer.name in timed]
        return ExecutedGraph((copies[0], *nodes, copies[1]))

    def _copies(self, arrays: Arrays, runs: int) -> tuple[Node, Node]:
        """The copies of inputs and outputs as nodes, without the profiler, which would wait after each layer."""
        events = [self._cuda.event() for _ in range(4)]
        rows = []
        for _ in range(runs):
            self._execute(self._context, arrays, events)
            rows.append((self._cuda.elapsed_ms(*events[:2]), self._cuda.elapsed_ms(*events[2:])))
        for event in events:
            self._cuda.destroy_event(event)
        there, back = (float(ms) for ms in np.percentile(np.asarray(rows), 25, axis=0))
        return Node("inputs to the GPU", "copy", "other", there), Node("outputs from the GPU", "copy", "other", back)

    def close(self) -> None:
        """Free the memory of the GPU."""
        if self._stream is None:
            return
        for address, _ in self._buffers.values():
            self._cuda.free(address)
        self._cuda.destroy(self._stream)
        self._buffers.clear()
        self._stream = self._context = self._engine = None

    def _execute(self, context: Any, inputs: Arrays, events: Sequence[int] = ()) -> dict[str, Array]:
        """Run once; four ``events`` note the times before and after the copies to the GPU, and those back."""
        assert self._stream is not None
        try:
            held = {spec.name: np.ascontiguousarray(inputs[spec.name]) for spec in self.inputs}  # until all is done
            self._note(events[:1])
            for spec in self.inputs:
                self._feed(context, spec, held[spec.name])
            self._note(events[1:2])
            outputs = {spec.name: self._place(context, spec) for spec in self.outputs}
            if not context.execute_async_v3(self._stream):
                raise InvalidModel(f"{self._file}: {self._library.title} failed: {self._last_error()}")
            self._note(events[2:3])
            for name, array in outputs.items():
                self._cuda.copy_to_host(array, self._buffers[name][0], self._stream)
            self._note(events[3:])
            self._cuda.synchronize(self._stream)
        except (OSError, RuntimeError) as error:
            raise InvalidModel(f"{self._file}: {self._library.title} failed: {one_line(error)}") from error
        return outputs

    def _note(self, events: Sequence[int]) -> None:
        assert self._stream is not None
        for event in events:
            self._cuda.record(event, self._stream)

    def _feed(self, context: Any, spec: TensorSpec, array: Array) -> None:
        assert self._stream is not None
        if not context.set_input_shape(spec.name, array.shape):
            least, _, most = (tuple(shape) for shape in self._engine.get_tensor_profile_shape(spec.name, 0))
            raise InvalidInputs(
                f"input {spec.name!r}: the engine was built for shapes {least} to {most}, got {array.shape}"
            )
        address = self._memory(spec.name, array.nbytes)
        self._cuda.copy_to_device(address, array, self._stream)
        context.set_tensor_address(spec.name, address)

    def _place(self, context: Any, spec: TensorSpec) -> Array:
        """An array for an output, and memory of the GPU behind it."""
        shape = tuple(int(n) for n in context.get_tensor_shape(spec.name))
        if any(n < 0 for n in shape):
            raise InvalidModel(f"{self._file}: the shape of {spec.name} depends on the data, which is not supported")
        array: Array = np.empty(shape, np.dtype(spec.dtype))
        context.set_tensor_address(spec.name, self._memory(spec.name, array.nbytes))
        return array

    def _memory(self, name: str, size_bytes: int) -> int:
        address, held = self._buffers.get(name, (0, -1))
        if held < size_bytes:
            if held >= 0:
                self._cuda.free(address)
            address = self._cuda.allocate(size_bytes)
            self._buffers[name] = (address, size_bytes)
        return address

    def _new_context(self) -> Any:
        context = self._engine.create_execution_context()
        if context is None:
            raise InvalidModel(f"{self._file}: {self._library.title} has no memory to run it: {self._last_error()}")
        return context

    def _mode(self, name: str) -> Any:
        return self._engine.get_tensor_mode(name)

    def _spec(self, name: str) -> TensorSpec:
        if self._engine.get_tensor_location(name) != self._api.TensorLocation.DEVICE:
            raise InvalidModel(f"{self._file}: {name} is a shape, not data, which is not supported")
        try:
            dtype = np.dtype(self._api.nptype(self._engine.get_tensor_dtype(name))).name
        except TypeError:  # numpy has no such type
            raise InvalidModel(f"{self._file}: {name} has a type that numpy has not; build it with float32") from None
        shape = tuple(int(n) if n >= 0 else None for n in self._engine.get_tensor_shape(name))
        return TensorSpec(name, shape, dtype)

    def _last_error(self) -> str:
        return self._logger.errors[-1] if self._logger.errors else "no reason given"
