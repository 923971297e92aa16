"""The frame around every benchmark: its options, the parts that an interrupted run left, its results on paper and disk.

A benchmark is a file ``benchmarks/NAME.py``, or a folder with a ``__main__.py``, that decorates one function::

    @benchmark("halving", __doc__, peers=True)
    @click.option("--zoo", default="torchvision")
    def main(run: Run, zoo: str) -> None:
        for name in ...:
            figures = run.part(name, lambda: measure(name), zoo=zoo)
        run.table([Column(...), ...], rows)
        run.bar("halved", count, 70, "at least")

and ends with ``if __name__ == "__main__": main()``. Nothing heavy is imported where a module begins, so that ``--help``
answers at once and without the peers.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

if TYPE_CHECKING:
    from .results import Bar, Cell, Column, Machine, Results, Table

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGES = {
    "torch": "torch",
    "numpy": "numpy",
    "onnx": "onnx",
    "onnxruntime": "onnxruntime",
    "ai_edge_litert": "ai-edge-litert",
    "executorch": "executorch",
    "openvino": "openvino",
    "ncnn": "ncnn",
    "nncf": "nncf",
    "timm": "timm",
    "torchvision": "torchvision",
    "torch_pruning": "torch-pruning",
    "tensorrt_rtx_bindings": "tensorrt-rtx-cu12-bindings",
}
"""Distributions whose versions are noted where a run has imported their modules."""

Value = TypeVar("Value")


@dataclass
class Run:
    """One run of a benchmark: its common options, and what it has found so far.

    Args:
        name: of the benchmark.
        title: what it claims or asks, in one sentence.
        output: where the results go, as JSON.
        work: the folder of parts, files and checkpoints, from which an interrupted run goes on.
        threads: of torch and of every engine.
        seeds: of random weights, data and trainings, those that the user named.
        quick: whether fewer cases and repetitions are wanted, to see that all works.
        again: whether parts that an earlier run left are measured again.
        peers: the folder of what is compared with, on the path by now; None where the benchmark has none.
        earlier: versions of what the parts of an earlier run were measured with.
    """

    name: str
    title: str
    output: Path
    work: Path
    threads: int = 1
    seeds: tuple[int, ...] = (0,)
    quick: bool = False
    again: bool = False
    peers: str | None = None
    tables: list[Table] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    earlier: dict[str, str] = field(default_factory=dict)

    def part(self, name: str, measure: Callable[[], Value], **settings: Any) -> Value:
        """Return what ``measure`` returns (anything that JSON holds), measured now or by an earlier run.

        Args:
            name: of the part, as "resnet18 onnx".
            measure: what takes long.
            settings: what decides the result; a part of other settings is measured again.
        """
        wanted = json.loads(json.dumps(settings, default=str))
        file = self.work / "parts" / f"{slug(name)}.json"
        if file.exists() and not self.again:
            kept = json.loads(file.read_text(encoding="utf-8"))
            if kept["name"] == name and kept["settings"] == wanted:
                self.earlier |= kept.get("versions", {})
                value: Value = kept["value"]
                return value
        made = measure()
        facts = {"name": name, "settings": wanted, "versions": versions(), "value": made}
        write_whole(file, json.dumps(facts, indent=1) + "\n")
        read_back: Value = json.loads(file.read_text(encoding="utf-8"))["value"]
        return read_back

    def say(self, text: str) -> None:
        """Print a line on stderr, as progress; results are printed at the end."""
        click.echo(text, err=True)

    def table(
        self,
        columns: Iterable[Column],
        rows: Iterable[Mapping[str, Cell]],
        *,
        title: str = "",
        notes: Iterable[str] = (),
    ) -> None:
        """Add a table to the results."""
        from .results import Table

        self.tables.append(
            Table(title=title, columns=tuple(columns), rows=tuple(dict(row) for row in rows), notes=tuple(notes))
        )

    def bar(self, what: str, value: float, limit: float, side: Literal["at least", "at most"], unit: str = "") -> None:
        """Add a bar to the results; where one is missed, a run that is not quick ends with exit code 1."""
        from .results import Bar

        self.bars.append(Bar(what=what, value=value, limit=limit, side=side, unit=unit))

    def note(self, text: str) -> None:
        """Add a sentence in Markdown to the results."""
        self.notes.append(text)

    def results(self, arguments: Iterable[str]) -> Results:
        """Return what was found, with the header of this machine and moment."""
        from .results import Results

        return Results(
            name=self.name,
            title=self.title,
            command=shlex.join(["python", "-m", f"benchmarks.{self.name}", *arguments]),
            day=datetime.now(UTC).date(),
            commit=commit(),
            machine=this_machine(),
            threads=self.threads,
            seeds=self.seeds,
            quick=self.quick,
            versions=self.earlier | versions(),
            tables=tuple(self.tables),
            bars=tuple(self.bars),
            notes=tuple(self.notes),
        )


def benchmark(
    name: str, text: str | None, *, seeds: str | None = None, peers: bool | str = False, threads: int = 1
) -> Callable[[Callable[..., None]], click.Command]:
    """Return a decorator that makes a command of ``function(run, **its own options)``.

    Args:
        name: of the benchmark, as in ``python -m benchmarks.NAME``.
        text: the module's docstring: its first paragraph is the claim, all of it the help.
        seeds: the default of ``--seeds``; None where a run has one fixed seed, 0.
        peers: whether it compares with networks or tools from ``--peers``; "optional" where it can do without.
        threads: the default of ``--threads``.
    """
    title, _, rest = (text or "").strip().partition("\n\n")
    title = " ".join(title.split())

    def decorate(function: Callable[..., None]) -> click.Command:
        @click.pass_context
        def started(context: click.Context, /, **values: Any) -> None:
            run = _run(name, title, values, peers)
            function(run, **values)
            _finish(run, context)

        options = [
            click.Option(["--quick"], is_flag=True, help="Few cases and repetitions, to see that all works."),
            click.Option(["--again"], is_flag=True, help="Measure again what an earlier run left in --work."),
            click.Option(["--threads"], type=click.IntRange(1), default=threads, show_default=True),
            click.Option(
                ["-o", "--output"], type=click.Path(path_type=Path, dir_okay=False),
                default=Path(f"out/benchmarks/{name}.json"), show_default=True, help="Where the results go, as JSON.",
            ),
            click.Option(
                ["--work"], type=click.Path(path_type=Path, file_okay=False), default=Path(f"out/benchmarks/{name}"),
                show_default=True, help="Files and parts; an interrupted run goes on from there.",
            ),
        ]  # fmt: skip
        if seeds is not None:
            options.insert(0, click.Option(["--seeds"], default=seeds, show_default=True, type=numbers))
        if peers:
            options.insert(0, click.Option(["--peers"], help="Folder of what is compared with: make peers."))
        own = list(reversed(getattr(function, "__click_params__", [])))
        return _Command(name, callback=started, params=[*own, *options], help=_help(title, rest))

    return decorate


class _Command(click.Command):
    """A command that remembers the words it was called with, for the header of its results."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta["arguments"] = tuple(args)
        return super().parse_args(ctx, args)


def _run(name: str, title: str, values: dict[str, Any], peers: bool | str) -> Run:
    """The run of these options; its own are taken out of ``values``."""
    common = ("quick", "again", "threads", "output", "work", "seeds")
    run = Run(name, title, **{key: values.pop(key) for key in common if key in values})
    folder = values.pop("peers", None)
    if peers:
        from benchmarks.peers.folder import make_importable

        run.peers = make_importable(folder, required=peers is True)
    import torch

    torch.set_num_threads(run.threads)
    torch.manual_seed(run.seeds[0])
    run.work.mkdir(parents=True, exist_ok=True)
    return run


def _finish(run: Run, context: click.Context) -> None:
    """Write and print the results; ends with exit code 1 where a bar is missed, unless it had to be quick."""
    if not (run.tables or run.bars or run.notes):
        return
    from .results import markdown, write

    results = run.results(context.meta["arguments"])
    write(results, run.output)
    click.echo(markdown(results))
    if not run.quick and any(not bar.holds for bar in results.bars):
        context.exit(1)


def numbers(text: str) -> tuple[int, ...]:
    """Return whole numbers with commas between them: the type of an option.

    >>> numbers("0,1,2")
    (0, 1, 2)
    """
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise click.BadParameter(f"expected numbers with commas between them, as 0,1,2, got {text}") from None


def _help(title: str, rest: str) -> str:
    """The docstring as click shows it: indented lines stay as they are, marks of code go."""
    blocks = [f"\b\n{block}" if block.startswith("    ") else block for block in rest.rstrip().split("\n\n")]
    return "\n\n".join([title, *blocks]).replace("``", "")


def slug(name: str) -> str:
    """Return a name as a file may have it, different for different names.

    >>> slug("resnet18_onnx"), slug("a b/c")
    ('resnet18_onnx', 'a_b_c-539138d5')
    """
    plain = re.sub(r"[^A-Za-z0-9_.-]", "_", name)
    return plain if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def chosen(names: Sequence[str], every: Sequence[str], *, quick: bool) -> Sequence[str]:
    """Return the cases to run: those that the user named, or all; the first of all where it has to be quick.

    >>> chosen((), ("a", "b"), quick=True), chosen(("b",), ("a", "b"), quick=False)
    (('a',), ('b',))
    """
    return names or (every[:1] if quick else every)


def write_whole(file: Path, text: str) -> None:
    """Write a file, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(file)


def commit() -> str | None:
    """Return the commit of this project, with "+" where files differ from it; None where git does not tell."""
    try:
        told = [
            subprocess.run(["git", "-C", str(ROOT), *line], capture_output=True, text=True, check=True).stdout.strip()
            for line in (["rev-parse", "--short=10", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        ]
    except (OSError, subprocess.CalledProcessError):
        return None
    return told[0] + ("+" if told[1] else "")


def this_machine() -> Machine:
    """Return the facts about this machine."""
    from runtimes.sensors.conditions import conditions

    from .results import Machine

    facts = conditions()
    return Machine(
        processor=facts.cpu,
        architecture=facts.architecture,
        instruction_sets=facts.isa or (),
        cores=facts.cores,
        system=facts.os,
    )


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that this process has imported."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"Python": ".".join(map(str, sys.version_info[:3]))}
    for module, distribution in PACKAGES.items():
        if module in sys.modules:
            try:
                found[distribution] = version(distribution)
            except PackageNotFoundError:
                found[distribution] = str(getattr(sys.modules[module], "__version__", "of its own folder"))
    return found
