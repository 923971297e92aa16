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
