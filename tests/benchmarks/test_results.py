"""The one schema of what benchmarks write, and how it is shown."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from benchmarks.common.results import FOLDER, Bar, Column, Machine, Results, Table, bar_markdown, markdown, read, write
from benchmarks.parity_matrix.builder import joined
from benchmarks.parity_matrix.builder import shown as shown_build

TABLE = Table(
    title="files",
    columns=(Column(key="file", title="file"), Column(key="p50_ms", title="p50", unit="ms", decimals=2)),
    rows=({"file": "a|b", "p50_ms": 1.239}, {"file": "c"}),
    notes=("Busy.",),
)
RESULTS = Results(
    name="example",
    title="Files run.",
    command="python -m benchmarks.example",
    day=date(2026, 1, 2),
    commit="abc1234",
    machine=Machine(processor="P", architecture="x86_64", instruction_sets=("avx2",)),
    threads=1,
    seeds=(0, 1),
    versions={"torch": "2.10"},
    tables=(TABLE,),
    bars=(
        Bar(what="speed", value=1.9, limit=2.0, side="at least", unit="x"),
        Bar(what="loss", value=0.0, limit=0.0, side="at most"),
    ),
    notes=("A note.",),
)


def test_written_results_are_read_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "example.json"
    write(RESULTS, path)
    assert read(path) == RESULTS
    assert [file.name for file in path.parent.iterdir()] == ["example.json"]


def test_markdown() -> None:
    assert markdown(RESULTS) == (
        "`python -m benchmarks.example`, 2026-01-02, P (avx2), 1 thread, seeds 0, 1, torch 2.10, commit abc1234.\n\n"
        "**files**\n\n| file | p50 |\n|---|---|\n| a\\|b | 1.24 ms |\n| c | - |\n\nBusy.\n\n"
        "- speed: 1.900x (at least 2x: **missed**)\n- loss: 0 (at most 0: holds)\n\nA note.\n"
    )


def test_a_small_figure_keeps_its_digits() -> None:
    bar = Bar(what="error", value=3.641e-16, limit=1e-8, side="at most")
    assert bar_markdown(bar) == "- error: 3.641e-16 (at most 1e-08: holds)"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"threads": 0}, "threads"),
        ({"name": "../x"}, "name"),
        ({"surprise": 1}, "surprise"),
        ({"bars": [{"what": "a", "value": float("nan"), "limit": 1, "side": "at most"}]}, "finite"),
        ({"tables": [{"columns": [{"key": "a", "title": "a"}], "rows": [{"b": 1}]}]}, "got b"),
        ({"tables": [{"columns": [{"key": "a", "title": "a"}] * 2, "rows": []}]}, "different keys"),
        ({"tables": [{"columns": [{"key": "a", "title": "a"}], "rows": [{"a": float("inf")}]}]}, "finite"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Results.model_validate({**RESULTS.model_dump(), **change})


def test_published_results_fit_and_have_their_benchmark() -> None:
    paths = sorted(FOLDER.glob("*.json"))
    assert len(paths) >= 20
    for path in paths:
        results = read(path)
        assert results.name == path.stem
        assert (FOLDER.parent / f"{path.stem}.py").exists() or (FOLDER.parent / path.stem / "__main__.py").exists()
        assert results.tables or results.notes


def test_builds_stand_beside_the_engines_by_architecture_with_their_messages() -> None:
    networks = Column(key="network", title="network")
    engines = Table(
        columns=(networks,), rows=({"network": "resnet20"}, {"network": "vgg:width=0.25"}, {"network": "new"})
    )
    kinds = [Column(key=kind, title=kind) for kind in ("float32", "float16", "int8")]
    refused = "vgg, int8 is not built: no kernel."
    made = Table(
        columns=(networks, *kinds),
        rows=(
            {"network": "resnet20", "float32": "22 float32", "float16": "22 float16", "int8": "22 int8"},
            {"network": "vgg", "float32": "built", "float16": "**no**", "int8": "**no**"},
        ),
        notes=("vgg, float16 is not built: no half.", refused, "other, int8 is not built: no."),
    )
    parity = RESULTS.model_copy(update={"tables": (TABLE, engines)})
    wider = joined(parity, RESULTS.model_copy(update={"tables": (TABLE, made)}))
    rows = {
        row["network"]: (row["tensorrt_builder_float32"], row["tensorrt_builder_int8"]) for row in wider.tables[1].rows
    }
    assert rows == {
        "resnet20": ("built, 22 float32", "built, 22 int8"), "vgg:width=0.25": ("built", "**no**"), "new": (None, None),
    }  # fmt: skip
    assert wider.tables[1].notes == (refused,), "messages of the files that the table shows"
    assert wider.notes[0] == "A note." and "`python -m benchmarks.example` of 2026-01-02" in wider.notes[1]
    assert joined(wider, RESULTS) is wider, "what the run built itself stays"
    assert shown_build({"built": True, "products": {"float32": 2, "int8": 9}}) == "built, 9 int8, 2 float32"
    assert shown_build({"built": False, "products": None}) == "**no**"
