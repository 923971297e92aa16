"""CUDA's runtime library by ctypes: memory of the GPU, copies and a stream; no package of its own is needed.

Unproven: nothing here has run on a GPU yet. CUDA Runtime API: https://docs.nvidia.com/cuda/cuda-runtime-api/.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

from ..runtime import Array

_PROPERTIES_BYTES = 8192  # more than any version's cudaDeviceProp
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76  # of cudaDeviceAttr
TO_DEVICE, TO_HOST = 1, 2
"""cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost."""


class Cuda:
    """The library, its first GPU and one stream.

    Raises:
        OSError: there is no CUDA runtime, or no GPU that it can use.
    """

    def __init__(self, library: ctypes.CDLL | None = None) -> None:
        self._library = _library() if library is None else library
        count = ctypes.c_int(0)
        self._call("cudaGetDeviceCount", ctypes.byref(count))
        if count.value < 1:
            raise OSError("CUDA finds no NVIDIA GPU")

    def stream(self) -> int:
        """Return a new stream."""
        handle = ctypes.c_void_p()
        self._call("cudaStreamCreate", ctypes.byref(handle))
        return int(handle.value or 0)

    def gpu(self) -> str:
        """Return the name of the GPU and its compute capability, as "Orin (sm87)"."""
        properties = ctypes.create_string_buffer(_PROPERTIES_BYTES)  # they begin with the name, 256 bytes of it
        self._call("cudaGetDeviceProperties", properties, ctypes.c_int(0))
        numbers = []
        for attribute in (_CAPABILITY_MAJOR, _CAPABILITY_MINOR):
            value = ctypes.c_int(0)
            self._call("cudaDeviceGetAttribute", ctypes.byref(value), ctypes.c_int(attribute), ctypes.c_int(0))
            numbers.append(str(value.value))
        return f"{properties.value.decode('utf-8', 'replace') or 'GPU'} (sm{''.join(numbers)})"

    def event(self) -> int:
        """Return a new event, which notes the time at which a stream reaches it."""
        handle = ctypes.c_void_p()
        self._call("cudaEventCreate", ctypes.byref(handle))
        return int(handle.value or 0)

    def record(self, event: int, stream: int) -> None:
        """Let ``event`` note the time after all that ``stream`` was given so far."""
        self._call("cudaEventRecord", ctypes.c_void_p(event), ctypes.c_void_p(stream))

    def elapsed_ms(self, start: int, end: int) -> float:
        """Return the time between two events that a stream has reached, in ms."""
        value = ctypes.c_float(0)
        self._call("cudaEventElapsedTime", ctypes.byref(value), ctypes.c_void_p(start), ctypes.c_void_p(end))
        return float(value.value)

    def destroy_event(self, event: int) -> None:
        """Give an event back."""
        self._call("cudaEventDestroy", ctypes.c_void_p(event))

    def allocate(self, size_bytes: int) -> int:
        """Return the address of so much memory of the GPU, at least one byte."""
        address = ctypes.c_void_p()
        self._call("cudaMalloc", ctypes.byref(address), ctypes.c_size_t(max(size_bytes, 1)))
        return int(address.value or 0)

    def free(self, address: int) -> None:
        """Give memory back."""
        self._call("cudaFree", ctypes.c_void_p(address))

    def copy_to_device(self, address: int, array: Array, stream: int) -> None:
        """Copy a contiguous array to the GPU, in the order of ``stream``."""
        self._copy(address, int(array.ctypes.data), array.nbytes, TO_DEVICE, stream)

    def copy_to_host(self, array: Array, address: int, stream: int) -> None:
        """Fill a contiguous array from the GPU, in the order of ``stream``; it is there after `synchronize`."""
        self._copy(int(array.ctypes.data), address, array.nbytes, TO_HOST, stream)

    def synchronize(self, stream: int) -> None:
        """Wait until all work of ``stream`` is done."""
        self._call("cudaStreamSynchronize", ctypes.c_void_p(stream))

    def destroy(self, stream: int) -> None:
        """Give a stream back."""
        self._call("cudaStreamDestroy", ctypes.c_void_p(stream))

    def _copy(self, target: int, source: int, size_bytes: int, kind: int, stream: int) -> None:
        self._call(
            "cudaMemcpyAsync",
            ctypes.c_void_p(target),
            ctypes.c_void_p(source),
            ctypes.c_size_t(size_bytes),
            ctypes.c_int(kind),
            ctypes.c_void_p(stream),
        )

    def _call(self, name: str, *arguments: object) -> None:
        code = int(getattr(self._library, name)(*arguments))
        if code:
            describe = self._library.cudaGetErrorString
            describe.restype = ctypes.c_char_p
            told = describe(ctypes.c_int(code))
            raise OSError(f"CUDA: {name} failed: {told.decode() if told else 'unknown'} (error {code})")


def _library() -> ctypes.CDLL:
    for name in _candidates():
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise OSError("no CUDA runtime library (libcudart) is found; install CUDA or nvidia-cuda-runtime")


def _candidates() -> Iterator[str]:
    """Where the library may be: on the loader's path, in CUDA's own folder, in NVIDIA's wheels."""
    if sys.platform == "win32":
        yield from ("cudart64_13.dll", "cudart64_12.dll")
        return
    names = ("libcudart.so.13", "libcudart.so.12", "libcudart.so")
    yield from names
    found = ctypes.util.find_library("cudart")
    if found:
        yield found
    folders = [Path("/usr/local/cuda/lib64")]
    wheels = importlib.util.find_spec("nvidia")
    for place in (wheels.submodule_search_locations or ()) if wheels is not None else ():
        folders += [Path(place) / "cuda_runtime" / "lib", *sorted(Path(place).glob("cu*/lib"))]
    for folder in folders:
        yield from (str(folder / name) for name in names if (folder / name).is_file())
