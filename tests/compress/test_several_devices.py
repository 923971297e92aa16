"""A recipe of several devices: a file for each kind of processor, an outcome for each device, and one that is lost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from compress import deploy
from compress.errors import InvalidInput
from compress.pipeline import run
from compress.quantize.detect import detected
from compress.recipe import Recipe
from compress.report import Report, read
from runtimes import processor
from runtimes.devices.local import LocalDevice
from runtimes.errors import DeviceError
from runtimes.sensors.conditions import Conditions, conditions

RECIPE: dict[str, Any] = {
    "stages": ["fold", {"quantize": {}}],
    "exports": [{"name": "float"}, {"name": "int8", "after": "quantize"}],
    "benchmark": {"preset": "quick"},
    "gates": {"speedup": 0.001, "macs_ratio": 0.5, "top1_agreement": None},
}


class Board(LocalDevice):
    """This machine, which says that it is an ARM board."""

    name = "board"

    def conditions(self) -> Conditions:
        return replace(conditions(), architecture="aarch64", isa=("asimddp",), cpu="Cortex-A76")

    def is_exact(self, target: str) -> bool:
        return processor.is_exact(target, "aarch64", ("asimddp",))


class Lost(LocalDevice):
    """A device whose connection is lost while it measures."""

    name = "lost"

    def benchmark(self, *files: Any, **told: Any) -> Any:
        raise DeviceError("lost: measuring: the connection was lost")


class Unreachable(LocalDevice):
    name = "nobody"

    def conditions(self) -> Conditions:
        raise DeviceError("nobody: connecting: no route to host")


DEVICES = {"local": LocalDevice, "board": Board, "lost": Lost, "nobody": Unreachable}


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, small_net_file: Path, npz: Path, tmp_path: Path) -> Any:
    """Run the recipe on devices by their names, into ``out``."""

    @contextmanager
    def opened(names: Any, *_: Any) -> Iterator[list[LocalDevice]]:
        yield [DEVICES[name]() for name in names or ("local",)]

    monkeypatch.setattr(deploy, "opened", opened)

    def start(*names: str, **changes: Any) -> Report:
        recipe = {
            "model": f"{small_net_file}:build",
            "data": {"source": str(npz)},
            "device": names,
            **RECIPE,
            **changes,
        }
        return run(Recipe.model_validate(recipe), tmp_path / "out", trust=True)

    return start


def test_each_device_has_its_files_and_its_outcome_and_one_that_is_lost_takes_nothing_from_the_others(
    started: Any, tmp_path: Path
) -> None:
    with pytest.raises(
        DeviceError, match=r"lost: measuring: the connection was lost \(1 of 3 devices; .*has the others"
    ):
        started("local", "board", "lost", "local")
    report = read(tmp_path / "out")
    here = detected().target
    assert {export.name: export.target for export in report.exports} == {
        "float": here, "int8": here, "int8-ort-arm": "ort-arm",
    }, "floats are the same for all"  # fmt: skip
    assert [(record.name, record.device) for record in report.benchmarks] == [
        ("float", None), ("int8", None), ("float", "board"), ("int8-ort-arm", "board"),
    ]  # fmt: skip
    assert [record.in_reference for record in report.benchmarks[:3]] == [False] * 3, "floats are as fast there as here"
    first, second, lost = report.devices
    assert (first.device, second.device, second.summary.deployed) == ("local", "board", "int8-ort-arm")
    assert report.summary == first.summary and second.summary.speedup is not None
    assert (lost.summary.speedup, lost.failure) == (None, "lost: measuring: the connection was lost")
    assert [(gate.name, gate.device, gate.passed) for gate in report.gates] == [
        ("speedup", "local", True), ("macs_ratio", "local", True), ("speedup", "board", True),
        ("speedup", "lost", False),
    ]  # fmt: skip
    facts: Any = report.machine["devices"]
    assert [each["name"] for each in facts] == ["board"]


def test_where_all_are_lost_the_run_can_be_gone_on_with(started: Any, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"the connection was lost$"):
        started("lost")
    assert not (tmp_path / "out").exists() and len(list(tmp_path.glob("*/2-quantize"))) == 1, "its steps are kept"


def test_a_device_that_cannot_be_reached_is_told_before_any_work(started: Any, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="no route to host"):
        started("local", "nobody")
    assert not (tmp_path / "out" / "0-baseline").exists()


def test_a_name_that_a_file_for_another_processor_would_have_is_refused(started: Any) -> None:
    exports = [{"name": "int8", "after": "quantize"}, {"name": "int8-ort-arm", "after": "quantize"}]
    with pytest.raises(InvalidInput, match="export int8-ort-arm: board has a file of that name"):
        started("local", "board", exports=exports)


def test_devices_are_named_once_and_the_digest_of_one_is_that_of_its_name() -> None:
    assert Recipe(model="resnet20", device=("a", "b", "a")).devices == ("a", "b")
    assert Recipe(model="resnet20").devices == () and Recipe(model="resnet20", device="a").devices == ("a",)
