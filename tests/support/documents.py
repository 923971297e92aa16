"""What tests of the documentation share: its files, and the blocks of code in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))
_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w+)\n(?P<code>.*?)^(?P=indent)```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`(compress [^`]+)`")


@dataclass(frozen=True)
class Block:
    """A fenced block of code: its page, the line it begins on, its language and its text without indentation."""

    page: Path
    line: int
    language: str
    code: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path, language: str) -> Iterator[Block]:
    """The blocks of a page in a language."""
    text = page.read_text(encoding="utf-8")
    for match in _FENCE.finditer(text):
        if match["language"] == language:
            indent = len(match["indent"])
            code = "\n".join(line[indent:] for line in match["code"].splitlines())
            yield Block(page, text[: match.start()].count("\n") + 1, language, code)


def lines(block: Block) -> list[list[str]]:
    """The commands of a shell block, as lists of words: continued lines joined, comments gone, ``&&`` taken apart.

    >>> lines(Block(ROOT, 1, "sh", "compress a \\\\\\n  b # c\\ncompress d && e"))
    [['compress', 'a', 'b'], ['compress', 'd'], ['e']]
    """
    commands = []
    for line in block.code.replace("\\\n", " ").splitlines():
        words: list[str] = []
        for word in [*shlex.split(line, comments=True), "&&"]:
            if word == "&&":
                commands += [words] if words else []
                words = []
            else:
                words.append(word)
    return commands


def inline(page: Path) -> list[list[str]]:
    """The command lines in running text and tables that are more than a command's name: `compress prune net -o out`."""
    found = [shlex.split(match) for match in _INLINE.findall(page.read_text(encoding="utf-8"))]
    return [words for words in found if len(words) > 2]
