"""The documentation builds without a warning: every link, anchor and name in it leads somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.support.documents import PAGES, ROOT, Block, blocks

pytest.importorskip("sphinx", reason="an extra: pip install -c constraints.txt '.[docs]'")
LINK = re.compile(r"\]\(([^)\s]+)\)")


def build(source: Path, target: Path) -> subprocess.CompletedProcess[str]:
    """Sphinx with warnings as errors, all of them told."""
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "dummy", source, target]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)  # type: ignore[arg-type]


def test_it_builds_without_warnings(tmp_path: Path) -> None:
    done = build(ROOT / "docs", tmp_path / "built")
    assert done.returncode == 0, done.stderr


def test_signatures_are_short_and_of_python() -> None:
    from compress import Fold, Prune, Result
    from docs.conf import in_short

    def shown(kind: type, signature: str) -> str:
        return str(in_short(None, "class", "", kind, None, signature, None)[0])

    assert shown(Prune, "(...)").startswith("(*, ratio=None, macs=None, ")
    assert shown(Fold, "(...)") == "()"
    array = "~numpy.ndarray[tuple[~typing.Any, ...], ~numpy.dtype[~typing.Any]]"
    written = f"(a: {array} = <factory>, b: ~typing.Any = <function silent at 0x1>)"
    assert shown(Result, written) == "(a: ~numpy.ndarray = ..., b: ~typing.Any = silent)"


@pytest.mark.parametrize("link", ["no-such-page.md", "index.md#no-such-heading"])
def test_a_link_that_leads_nowhere_is_an_error(link: str, tmp_path: Path) -> None:
    source = tmp_path / "docs"
    source.mkdir()
    (source / "conf.py").write_text('extensions = ["myst_parser"]\nmyst_heading_anchors = 3\n')
    (source / "index.md").write_text(f"# Title\n\n[there]({link})\n")
    assert build(source, tmp_path / "built").returncode != 0


@pytest.mark.parametrize("page", [page for page in PAGES if page.parent == ROOT], ids=lambda page: page.name)
def test_links_beside_the_documentation_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        path = unquote(link.partition("#")[0])
        if not link.startswith(("http://", "https://", "#")):
            assert (page.parent / path).exists(), f"{page.name}: {link}"


def test_every_page_has_one_title() -> None:
    for page in PAGES:
        text = re.sub(r"^ *```.*?^ *```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        assert len(re.findall(r"^# ", text, flags=re.MULTILINE)) == 1, page


PLACE = re.compile(r"`((?:compress|export|runtimes|models|tests|benchmarks|examples|recipes|docs)/[\w./-]*)`")
MODULE = re.compile(r"`((?:compress|runtimes)\.[a-z_.]*[a-z_])(?:\.[A-Z]\w*)?`")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_are_named_exist(page: Path) -> None:
    named = set(PLACE.findall(page.read_text(encoding="utf-8")))
    missing = {place for place in named if not (ROOT / place).exists()}
    assert not missing, f"{page.relative_to(ROOT)}: there is no {', '.join(sorted(missing))}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_modules_that_are_named_exist(page: Path) -> None:
    for name in MODULE.findall(page.read_text(encoding="utf-8")):
        place = ROOT.joinpath(*name.split("."))
        inside = (
            place.parent / "__init__.py"
            if (place.parent / "__init__.py").is_file()
            else place.parent.with_suffix(".py")
        )
        known = place.is_dir() or place.with_suffix(".py").is_file()
        assert known or name.rpartition(".")[2] in inside.read_text(encoding="utf-8"), (
            f"{page.relative_to(ROOT)}: {name}"
        )


PYTHON = [block for page in PAGES for block in blocks(page, "python")]


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_python_that_is_shown_runs(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(block.code, str(block), "exec"), {"__name__": "shown"})
