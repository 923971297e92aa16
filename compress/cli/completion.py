"""compress completion, and what TAB offers where an option takes a network or data."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem, get_completion_class

from ..presets import PRESETS
from .grammar import generated
from .grammar.parameters import Command

VARIABLE = "_COMPRESS_COMPLETE"
WHERE = {
    "bash": 'eval "$(compress completion bash)" in ~/.bashrc',
    "zsh": 'eval "$(compress completion zsh)" in ~/.zshrc',
    "fish": "compress completion fish > ~/.config/fish/completions/compress.fish",
}


@click.command("completion", cls=Command, short_help="Print the script that lets a shell complete with TAB.")
@click.argument("shell", type=click.Choice(list(WHERE)))
def command(shell: str) -> None:
    """Print the script that completes commands, options, networks of the zoo, formats and targets with TAB.

    \b
    Example:
      eval "$(compress completion bash)"                                       # in ~/.bashrc
      eval "$(compress completion zsh)"                                        # in ~/.zshrc
      compress completion fish > ~/.config/fish/completions/compress.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None, f"click completes in {shell}"
    script = kind(click.Command("compress"), {}, "compress", VARIABLE).source()
    click.echo(script)


def networks(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Networks of the zoo, then files and folders."""
    return _or_files(generated.table()["zoo"], incomplete)


def recipes(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The recipes that come with the package, then files."""
    return _or_files(list(PRESETS), incomplete)


def data_sources(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The data that is built in, then files and folders."""
    return _or_files(["digits"], incomplete)


def _or_files(names: list[str], incomplete: str) -> list[CompletionItem]:
    named = [CompletionItem(name) for name in names if name.startswith(incomplete)]
    return [*named, CompletionItem(incomplete, type="file")]
