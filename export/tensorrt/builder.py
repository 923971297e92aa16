"""TensorRT's builder, called by an exporter: what it says is told with the file that was to be written."""

from __future__ import annotations

from collections.abc import Callable

from compress.errors import GateFailed, InvalidInput, PackageMissing
from compress.siblings import runtimes

from .trtexec import command

Built = runtimes.tensorrt.builder.Built
Wishes = runtimes.tensorrt.builder.Wishes


def built(make: Callable[[], Built], wishes: Wishes, where: str) -> Built:
    """The engine that ``make`` builds.

    Args:
        wishes: that it builds by, for the line that does it on the device.
        where: the beginning of messages, as "export net.engine".

    Raises:
        InvalidInput: the parser refuses the network: each of its errors, with node and operator.
        GateFailed: the build failed.
        PackageMissing: there is no GPU that the library can use, and it needs one.
    """
    try:
        return make()
    except runtimes.tensorrt.builder.Refused as error:
        raise InvalidInput(f"{where}: {error}") from error
    except runtimes.tensorrt.builder.BuildFailed as error:
        raise GateFailed(f"{where}: {error}") from error
    except runtimes.errors.EngineMissing as error:
        line = command("NET.onnx", "NET.engine", wishes.shapes or {}, dla_core=wishes.dla_core)
        raise PackageMissing(
            f"{where}: {error}; write ONNX with --target tensorrt and run on the device: {line}"
        ) from error
