"""A process that imports everything once and runs each command in a fork of itself: ``python worker.py ROOT``.

Reads commands that are to run at the same time, a JSON list per line (see :meth:`tests.faults.commands.Worker.run`),
and answers with a line of how they ended. What goes on in a fork (a crash, a changed setting, a leak) stays there.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import resource
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

WRITES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.chmod", "shutil.rmtree")
"""What Python tells of changes to files, besides opening them for writing, and ``renameat2`` by its name."""
PAGE = os.sysconf("SC_PAGE_SIZE")
IMPORTED = (
    *(
        "torch",
        "numpy",
        "onnx",
        "onnxruntime",
        "onnxscript",
        "pydantic",
        "rich.console",
        "safetensors.torch",
        "PIL.Image",
    ),
    *(
        "compress.pipeline",
        "compress.deploy",
        "compress.report",
        "compress.packing.container",
        "compress.sources.onnx_import",
    ),
    *(
        "compress.cli.session",
        "compress.cli.run",
        "export.onnx.exporter",
        "runtimes.checks.gate",
        "runtimes.__main__",
        "yaml",
    ),
    *("torch.nn.utils.parametrize", "matplotlib.figure", "zstandard", "sklearn.datasets", "lightning_fabric"),
)


def main() -> None:
    sys.path.insert(0, sys.argv[1])
    for name in IMPORTED:
        importlib.import_module(name)
    import torch

    from compress.cli import cli

    for name in cli.list_commands(None):  # type: ignore[arg-type]
        cli.get_command(None, name)  # type: ignore[arg-type]

    torch.set_num_threads(1)
    warm(torch)
    sys.dont_write_bytecode = True  # what is compiled in a fork would count among its changes of files
    gc.freeze()  # so that collecting in a fork does not copy all that is here
    answers = os.fdopen(os.dup(1), "w")
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(ended(json.loads(line))), file=answers, flush=True)


def warm(torch: Any) -> None:
    """Trace one network, which imports what a trace needs."""
    from compress.fold import Fold
    from compress.stage import Context

    network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2)).eval()
    Fold().apply(network, Context((torch.zeros(1, 1, 8, 8),)))


def ended(commands: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """How commands that run at the same time ended."""
    running = [Running(command) for command in commands]
    while sum(each.is_over() for each in running) < len(running):
        time.sleep(0.005)
    return [each.told for each in running]


class Running:
    """A command in a fork: ``told`` is its code, or minus the signal that ended it; its words; what it took; why it
    was stopped."""

    def __init__(self, command: dict[str, Any]) -> None:
        self.command, self.start, self.base = command, time.monotonic(), resident(os.getpid())
        self.told: dict[str, Any] = {"code": None, "out": "", "err": "", "seconds": 0.0, "bytes": 0, "stopped": ""}
        self.said = [b"", b""]
        pipes = [os.pipe() for _ in self.said]
        self.child = os.fork()
        if self.child == 0:
            run(command, [write for _, write in pipes])
        self.streams = [read for read, _ in pipes]
        for read, write in pipes:
            os.close(write)
            os.set_blocking(read, False)

    def is_over(self) -> bool:
        """Whether it has ended; stops it where it takes too much."""
        if self.told["code"] is not None:
            return True
        done, status = os.waitpid(self.child, os.WNOHANG)
        for number, stream in enumerate(self.streams):
            with suppress(BlockingIOError):
                while words := os.read(stream, 65536):
                    self.said[number] += words
        self.told["bytes"] = max(self.told["bytes"], resident(self.child) - self.base)
        self.told["seconds"] = time.monotonic() - self.start
        if done:
            kill(self.child, signal.SIGKILL)  # what it started and left running
            for stream in self.streams:
                os.close(stream)
            out, err = (words.decode(errors="replace") for words in self.said)
            self.told |= {"code": os.waitstatus_to_exitcode(status), "out": out, "err": err}
            return True
        self._stop_what_takes_too_much()
        return False

    def _stop_what_takes_too_much(self) -> None:
        seconds, size = self.command["seconds"], self.command["bytes"]
        if self.told["seconds"] > seconds + 20:
            kill(self.child, signal.SIGKILL)
        elif self.told["stopped"]:
            return
        elif self.told["seconds"] > seconds:
            self.told["stopped"] = f"it took more than {seconds:g} s"
            kill(self.child, self.command["signal"])
        elif self.told["bytes"] > size:
            self.told["stopped"] = f"it took more than {size / 2**30:.1f} GiB of memory"
            kill(self.child, signal.SIGKILL)


def kill(group: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def run(command: dict[str, Any], streams: list[int]) -> None:
    """Be the command; does not return."""
    code = 71
    try:
        os.setsid()
        os.chdir(command["folder"])
        os.environ.update(command["environment"])
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number, stream in enumerate(streams, 1):
            os.dup2(stream, number)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if command["file_bytes"] is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (command["file_bytes"],) * 2)
        count_writes(command["dies_at"], Path(command["environment"]["TMPDIR"] + ".writes"))
        sys.argv = [command["entry"], *command["arguments"]]
        if command["entry"] == "compress":
            from compress.cli import main as entry
        else:
            from runtimes.__main__ import main as checked

            def entry() -> None:
                sys.exit(checked())

        try:
            entry()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:  # noqa: BLE001 - whatever it is, the fork ends here
        import traceback

        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def count_writes(last: int | None, told: Path) -> None:
    """Have this process killed at the change ``last`` of a file, or, where that is 0, tell their number in a file."""
    if last is None:
        return
    seen = 0

    def counted(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        opened = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
        if opened or event in WRITES or (event == "ctypes.dlsym" and arguments[1] == "renameat2"):
            seen += 1
            if seen == last:
                os.kill(os.getpid(), signal.SIGKILL)
            if last == 0:
                number = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                os.write(number, str(seen).encode())
                os.close(number)

    sys.addaudithook(counted)


def resident(process: int) -> int:
    """Bytes of memory that a process has in use."""
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * PAGE
    except (OSError, ValueError, IndexError):
        return 0


if __name__ == "__main__":
    main()
