"""The command line: one file per command, each imported only when it is asked for."""

from __future__ import annotations

import gc
import importlib
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

import click

from .grammar.parameters import close_to

COMMANDS = (
    "init",
    "run",
    "train",
    "sensitivity",
    "regularize",
    "prune",
    "remove-blocks",
    "sparsify",
    "share",
    "substitute",
    "quantize",
    "distill",
    "fold",
    "export",
    "check",
    "pack",
    "unpack",
    "bench",
    "compare",
    "devices",
    "analyze",
    "profile",
    "diagnose",
    "report",
    "doctor",
    "completion",
)


class _Commands(click.Group):
    """Commands in the order of the work, each in the module of its name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(f".{cmd_name.replace('-', '_')}", __name__).command
        assert isinstance(command, click.Command), f"{cmd_name}.py defines a command"
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command of the first word; where there is none, the error tells which ones have names like it."""
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            ctx.fail(f"No such command {args[0][:80]!r}.{close_to(args[0], COMMANDS)}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; what click would end in silence, as if the user had wanted it, comes to :func:`main`."""
        try:
            return super().invoke(ctx)
        except (EOFError, KeyboardInterrupt) as error:
            raise _Ended(error) from error


class _Ended(Exception):
    """Why a command ended, on its way past click."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__(str(cause))
        self.cause = cause


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="edgepress", prog_name="compress")
def cli() -> None:
    """Make a trained network smaller and faster, and prove it on the file that is deployed.

    \b
    Example: from a zoo network to a measured int8 file
      compress train resnet20 --data digits --epochs 8 -o out/base
      compress prune out/base --macs 4 --data digits --epochs 10 --teacher out/base -o out/pruned
      compress quantize out/pruned --data digits -o out/int8
      compress export out/int8 --format onnx -o out/files
      compress bench out/files/model.onnx --threads 1
      compress compare main.json branch.json --max-slowdown 5%

    \b
    Exit codes: 0 ok; 1 a gate failed; 2 bad input; 3 an engine or package is missing;
                4 a device cannot be reached, or fails; 5 a measurement is invalid (--strict);
                130, 129, 143 it was interrupted, by Ctrl-C, SIGHUP or SIGTERM.
    """


def main() -> None:
    """Entry point of ``compress``: errors become one line and an exit code."""
    from ..siblings import runtimes

    gc.set_threshold(5_000, 10, 10)  # Python's 700 look through all that torch defines while it is imported
    runtimes.ending.prepare()
    for package in ("compress", "export", "runtimes"):
        logging.getLogger(package).handlers = [_Notes(runtimes.ending.say)]
    status: object = 0
    from .completion import VARIABLE

    try:
        _require_current_folder()
        status = cli.main(standalone_mode=False, complete_var=VARIABLE)
        sys.stdout.flush()
    except click.ClickException as error:
        status = error.exit_code
        if type(error).__name__ == "NoArgsIsHelpError":  # of newer versions of click
            error.show()
            sys.exit(status)
        runtimes.ending.complain(" ".join(error.format_message().split()))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except _Ended as ended:
        status = _told(ended.cause)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - whatever it is, it is told in one line
        status = _told(error)
    sys.exit(status if isinstance(status, int) else 0)


def _require_current_folder() -> None:
    try:
        Path.cwd()
    except FileNotFoundError as error:  # torch would end the process
        raise click.UsageError("the current folder is gone; go to another one") from error


def _told(error: BaseException) -> int:
    """Say why a command ended, in one line; returns the exit code."""
    if "--debug" in sys.argv and not isinstance(error, KeyboardInterrupt):
        raise error
    from ..siblings import runtimes

    runtimes.ending.end_processes()
    message, code = runtimes.ending.told(error)
    runtimes.ending.complain(message)
    return code


class _Notes(logging.Handler):
    """What our modules log for the user is a line on stderr."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self.say = say

    def emit(self, record: logging.LogRecord) -> None:
        self.say(f"note: {' '.join(record.getMessage().split())}")
