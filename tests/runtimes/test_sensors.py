"""Every reader of sensors on the files of four machines; on garbage, on unreadable files, and on none."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from runtimes.errors import InvalidInputs
from runtimes.sensors import clocks, cores, power, power_mode, throttling, watch
from runtimes.sensors.conditions import Conditions, conditions
from runtimes.sensors.emulation import executed, is_emulated
from runtimes.sensors.temperatures import temperatures_c, wait_below
from tests.support import boards

BOARDS: dict[str, Callable[[Path], Path]] = {
    each.__name__: each for each in (boards.jetson_orin, boards.raspberry_pi_5, boards.pixel_7, boards.server)
}


@pytest.fixture(autouse=True)
def no_tools(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Boards tell by files alone here."""
    monkeypatch.setenv("PATH", str(tmp_path))


def test_clusters_by_name(tmp_path: Path) -> None:
    made = {name: cores.clusters(make(tmp_path / name)) for name, make in BOARDS.items()}
    assert made == {
        "jetson_orin": {"all": (0, 1, 2, 3, 4, 5)},
        "raspberry_pi_5": {"all": (0, 1, 2, 3)},
        "pixel_7": {"little": (0, 1, 2, 3), "middle": (4, 5), "big": (6, 7)},
        "server": {"all": (0, 1)},  # turbo clocks that differ by 5 % are of one kind
    }


def test_clusters_of_hybrid_processors(tmp_path: Path) -> None:
    boards.write(
        tmp_path, {**boards.cores(6, {}), "sys/devices/cpu_core/cpus": "0-3", "sys/devices/cpu_atom/cpus": "4-5"}
    )
    assert cores.clusters(tmp_path) == {"little": (4, 5), "big": (0, 1, 2, 3)}


def test_four_clusters(tmp_path: Path) -> None:
    boards.write(tmp_path, {f"{boards.CPU}/cpu{core}/cpu_capacity": str(100 * (core + 1)) for core in range(4)})
    assert list(cores.clusters(tmp_path)) == ["little", "middle1", "middle2", "big"]


def test_cores_are_named_numbered_or_in_ranges() -> None:
    known = {"little": (0, 1, 2, 3), "big": (6, 7)}
    meanings: list[tuple[list[int | str], tuple[int, ...]]] = [
        (["big"], (6, 7)),
        (["0-2", 7], (0, 1, 2, 7)),
        (["big", "1"], (1, 6, 7)),
        (["0+2"], (0, 2)),
    ]
    for words, meant in meanings:
        assert cores.resolved(words, range(8), known) == meant
    refusals: list[tuple[list[int | str], str]] = [
        (["huge"], "cluster"),
        (["big", "9"], "this process may use"),
        ([], "none"),
        (["3-1"], "ranges"),
    ]
    for words, reason in refusals:
        with pytest.raises(InvalidInputs, match=reason):
            cores.resolved(words, range(8), known)


def test_a_jetson(tmp_path: Path) -> None:
    root = boards.jetson_orin(tmp_path)
    assert temperatures_c(root) == {"cpu-thermal": 48.468, "gpu-thermal": 47.125, "tj-thermal": 48.593}
    assert clocks.clocks_mhz([0, 4], root) == {"cpu0": 729.6, "cpu4": 729.6, "gpu": 306.0, "emc": 2133.0}
    assert throttling.cooling(root) == {
        "cpufreq-cpu0": 0, "cpu-throttle-alert": 0, "gpu-throttle-alert": 0, "hot-surface-alert": 0,
    }  # fmt: skip
    assert throttling.counters(root) == {"soctherm_oc oc1": 0, "soctherm_oc oc3": 2}
    assert (power_mode.mode(root), power_mode.mode_name(root)) == (0, "15W")
    assert power_mode.numbered_mode("7W", root) == 1 and power_mode.numbered_mode("0", root) == 0
    with pytest.raises(InvalidInputs, match=r"expected one of 0 \(15W\), 1 \(7W\)"):
        power_mode.numbered_mode("MAXN", root)
    assert clocks.are_locked([0, 4], root) is False
    for core in range(4):
        (root / f"{boards.CPU}/cpu{core}/cpufreq/scaling_min_freq").write_text("1510400\n")
    assert clocks.are_locked([0, 3], root) is True


def test_rails(tmp_path: Path) -> None:
    jetson, pixel, server = (BOARDS[name](tmp_path / name) for name in ("jetson_orin", "pixel_7", "server"))
    assert [rail.name for rail in power.rails(jetson)] == ["VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"]
    assert power.rail_named(None, jetson).read() == pytest.approx(5.024 * 1.2)
    assert power.rail_named("VDD_SOC", jetson).read() == pytest.approx(5.016 * 0.304)
    (battery,) = power.rails(pixel)
    assert battery.name == "battery" and battery.read() == pytest.approx(4.1 * 0.512)
    assert [(rail.name, rail.kind) for rail in power.rails(server)] == [("package-0", "joules"), ("core", "joules")]
    assert power.rail_named(None, server).wraps_j == pytest.approx(262143.32885)
    with pytest.raises(InvalidInputs, match=r"'VDD_CPU': expected one of VDD_IN"):
        power.rail_named("VDD_CPU", jetson)
    with pytest.raises(InvalidInputs, match="no power rail"):
        power.rail_named(None, boards.raspberry_pi_5(tmp_path / "pi"))


def test_rails_of_other_monitors(tmp_path: Path) -> None:
    monitor = "sys/class/hwmon/hwmon3"
    boards.write(
        tmp_path,
        {f"{monitor}/name": "amd_energy", f"{monitor}/energy1_label": "Esocket0", f"{monitor}/energy1_input": "5000000",
         f"{monitor}/power1_average": "7500000"},
    )  # fmt: skip
    told = {rail.name: (rail.kind, rail.read()) for rail in power.rails(tmp_path)}
    assert told == {"Esocket0": ("joules", 5.0), "amd_energy power1": ("watts", 7.5)}


def test_a_meter_adds_up_watts_and_follows_a_counter_over_its_end(tmp_path: Path) -> None:
    root = boards.server(tmp_path)
    meter = power.Meter(power.rail_named(None, root))
    with meter.measuring():
        boards.write(root, {"sys/class/powercap/intel-rapl:0/energy_uj": "1671150"})
    assert meter.joules == pytest.approx(1.67115 + 262143.32885 - 262140.0)
    jetson = boards.jetson_orin(tmp_path / "jetson")
    steady = power.Meter(power.rail_named(None, jetson), every_s=0.001)
    with steady.measuring():
        pass
    assert steady.joules == pytest.approx(5.024 * 1.2 * steady.seconds) and steady.seconds > 0


def test_a_rail_that_vanishes_is_told(tmp_path: Path) -> None:
    root = boards.jetson_orin(tmp_path)
    meter = power.Meter(power.rail_named(None, root))
    with pytest.raises(InvalidInputs, match="cannot be read any more"), meter.measuring():
        (root / "sys/class/hwmon/hwmon1/curr1_input").unlink()


def test_energy_of_a_run_and_that_beyond_rest() -> None:
    told = power.Energy("VDD_IN", "file", joules=12.0, seconds=2.0, runs=100, idle_watts=4.0)
    assert told.per_run_mj == pytest.approx(120.0) and told.per_run_above_idle_mj == pytest.approx(40.0)
    assert power.Energy("VDD_IN", "file", 12.0, 2.0, 100).per_run_above_idle_mj is None


def test_throttling(tmp_path: Path) -> None:
    pi, pixel, server = (BOARDS[name](tmp_path / name) for name in ("raspberry_pi_5", "pixel_7", "server"))
    assert throttling.bits(pi) == 0x50000 and throttling.bits(pixel) is None
    assert throttling.cooling(pi) is None  # a fan holds nothing back
    held = {"thermal-cpufreq-0": 0, "thermal-cpufreq-1": 0, "thermal-cpufreq-2": 3, "thermal-gpufreq-0": 0}
    assert throttling.cooling(pixel) == held
    assert throttling.cooling(server) == {"Processor": 0}
    assert throttling.counters(server) == {"cpu0": 5, "cpu1": 0}


@pytest.mark.parametrize("board", BOARDS)
def test_conditions_of_every_board_survive_json(board: str, tmp_path: Path) -> None:
    from dataclasses import asdict

    told = conditions(BOARDS[board](tmp_path))
    assert told.clusters and told.governor in ("schedutil", "ondemand", "sched_pixel", "performance")
    assert told.temperatures_c and told.clocks_mhz and told.clocks_mhz["cpu0"] > 500
    assert Conditions.from_json(asdict(told)) == told


def test_a_reading_between_runs(tmp_path: Path) -> None:
    told = watch.reading(1.5, [6], boards.pixel_7(tmp_path))
    assert told.at_s == 1.5 and told.clocks_mhz == {"cpu6": 1106.0}
    assert told.cooling is not None and told.cooling["thermal-cpufreq-2"] == 3


def test_the_gate_opens_when_the_machine_is_cool(tmp_path: Path) -> None:
    root, told = boards.jetson_orin(tmp_path), []
    temperatures = iter(["47000", "45900"])

    def sleep(_: float) -> None:
        zones = {f"{boards.THERMAL}/thermal_zone{zone}/temp": "30000" for zone in range(4)}
        boards.write(root, zones | {f"{boards.THERMAL}/thermal_zone3/temp": next(temperatures)})

    reason = wait_below(46, 100, lambda *words: told.append(words), partial(temperatures_c, root), sleep)
    assert reason == "" and told == [("cool", 0, 100, "tj-thermal 48.6 C"), ("cool", 1, 100, "tj-thermal 47.0 C")]


def test_the_gate_gives_up(tmp_path: Path) -> None:
    slept: list[float] = []
    root = boards.jetson_orin(tmp_path)
    reason = wait_below(40, 3, None, partial(temperatures_c, root), slept.append)
    assert reason == "tj-thermal is still at 48.6 C, not below 40 C, after waiting 3 s" and len(slept) == 3
    with pytest.raises(InvalidInputs, match="tells no temperature"):
        wait_below(40, 3, None, partial(temperatures_c, tmp_path / "nothing"), slept.append)


def files_below(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


def read_all(root: Path) -> tuple[object, ...]:
    """What every reader says, but facts that come from elsewhere than files."""
    told = conditions(root)
    return (
        *(temperatures_c(root), clocks.clocks_mhz(range(8), root), throttling.cooling(root), throttling.counters(root)),
        *(throttling.bits(root), power_mode.mode_name(root), clocks.are_locked([0], root), power.rails(root) or None),
        *(told.governor, told.max_clock_mhz, told.board, told.cpu, told.isa),
    )


@pytest.mark.parametrize("board", BOARDS)
@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00garbage", b"nan", b"-1e999", b"9" * 400])
def test_garbage_invents_nothing(board: str, content: bytes, tmp_path: Path) -> None:
    root = BOARDS[board](tmp_path)
    for file in files_below(root):
        if file.name not in ("type", "name", "model", "cpuinfo", "scaling_governor"):
            file.write_bytes(content)
    for told in read_all(root)[:6]:
        assert told is None or told == {} or "9" * 400 in str(told)
    assert not power.rails(root)


@pytest.mark.parametrize("board", BOARDS)
def test_folders_in_place_of_files_are_no_values(board: str, tmp_path: Path) -> None:
    """Where root reads whatever it likes, a folder is what cannot be read."""
    root = BOARDS[board](tmp_path)
    for file in files_below(root):
        file.unlink()
        file.mkdir()
    assert read_all(root) == (None,) * 13


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads what nobody may")
@pytest.mark.parametrize("board", BOARDS)
def test_unreadable_files_are_no_values(board: str, tmp_path: Path) -> None:
    root = BOARDS[board](tmp_path)
    for file in files_below(root):
        file.chmod(0)
    assert read_all(root) == (None,) * 13


def test_nothing_there_is_nothing_told(tmp_path: Path) -> None:
    assert read_all(tmp_path) == (None,) * 13


def test_emulation_shows_by_what_the_kernel_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGEPRESS_EMULATED", raising=False)
    assert not is_emulated(boards.jetson_orin(tmp_path / "jetson"), "aarch64")
    assert not is_emulated(boards.server(tmp_path / "server"), "x86_64")
    below = boards.write(tmp_path / "below", {"proc/sys/kernel/arch": "x86_64"})
    assert is_emulated(below, "aarch64") and is_emulated(below, "armv7l") and is_emulated(below, "riscv64")
    for own in ("x86_64", "i686", "AMD64", "loongarch64"):  # of its family, or not known
        assert not is_emulated(below, own)
    whole = boards.write(tmp_path / "whole", {"proc/cpuinfo": "model name\t: QEMU TCG CPU version 2.5+"})
    assert is_emulated(whole, "x86_64")
    monkeypatch.setenv("EDGEPRESS_EMULATED", "1")
    assert is_emulated(tmp_path / "jetson", "aarch64")
    monkeypatch.setenv("EDGEPRESS_EMULATED", "0")
    assert not is_emulated(below, "aarch64")


def test_emulation_shows_by_the_file_that_the_kernel_executes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGEPRESS_EMULATED", raising=False)
    file = executed(tmp_path)
    file.parent.mkdir(parents=True)
    little, big = b"\x7fELF\x02\x01" + bytes(10) + b"\x02\x00", b"\x7fELF\x02\x02" + bytes(10) + b"\x00\x02"
    for header, own, emulated in (
        (little + b"\x3e\x00", "aarch64", True),  # EM_X86_64
        (little + b"\xb7\x00", "x86_64", True),  # EM_AARCH64: FEX and box64
        (little + b"\xb7\x00", "armv8l", False),
        (little + b"\x3e\x00", "i686", False),
        (big + b"\x00\xb7", "x86_64", True),
        (little + b"\xff\xff", "aarch64", False),
        (b"#!/bin/sh of qemu-aarch64", "aarch64", False),
        (little, "aarch64", False),
    ):
        file.write_bytes(header)
        assert is_emulated(tmp_path, own) == emulated


def test_this_process_runs_the_file_that_the_kernel_executes() -> None:
    if Path("/proc/self/task").exists():
        assert executed().read_bytes()[:4] == b"\x7fELF"
