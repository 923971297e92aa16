"""The command line: one file per command, each imported only when it is asked for."""

from __future__ import annotations

import importlib
import os
import sys

import click

COMMANDS = (
    "run",
    "train",
    "sensitivity",
    "regularize",
    "prune",
    "remove-blocks",
    "sparsify",
    "share",
    "quantize",
    "distill",
    "fold",
    "export",
    "check",
    "pack",
    "unpack",
    "bench",
    "analyze",
    "report",
    "doctor",
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

    \b
    Exit codes: 0 ok; 1 a gate failed; 2 bad input; 3 an engine or package is missing;
                4 a device cannot be reached; 5 a measurement is unstable.
    """


def main() -> None:
    """Entry point of ``compress``: errors become one line and an exit code."""
    debug = "--debug" in sys.argv
    try:
        status = cli.main(standalone_mode=False)
    except click.exceptions.Abort:
        status = 130
    except KeyboardInterrupt:
        status = _complain("interrupted; a recipe goes on where it stopped when it is run again", 130)
    except click.ClickException as error:
        status = _complain(error.format_message().replace("\n", " "), error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    except Exception as error:
        if debug:
            raise
        code = getattr(error, "exit_code", None)
        if isinstance(code, int):
            status = _complain(" ".join(str(error).split()), code)
        else:
            told = " ".join(f"{type(error).__name__}: {error}".split())
            status = _complain(f"unexpected {told[:500]} (a defect of this program; --debug shows where)", 70)
    sys.exit(status if isinstance(status, int) else 0)


def _complain(message: str, code: int) -> int:
    click.echo(f"error: {message}", err=True)
    return code
