"""Facts about a machine, read from copies of what Linux tells on boards and servers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runtimes.errors import InvalidInputs
from runtimes.sensors.conditions import conditions
from runtimes.sensors.cores import pinned

ALLOWED = sorted(os.sched_getaffinity(0))


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Raspberry Pi that is throttled."""
    root, tools = tmp_path / "root", tmp_path / "tools"
    write(root / "proc/cpuinfo", "processor\t: 0\nFeatures\t: fp asimd evtstrm crc32 asimddp cpuid\n")
    write(root / "proc/device-tree/model", "Raspberry Pi 5 Model B Rev 1.0\0")
    cpufreq = root / f"sys/devices/system/cpu/cpu{ALLOWED[0]}/cpufreq"
    write(cpufreq / "scaling_governor", "ondemand\n")
    write(cpufreq / "scaling_cur_freq", "1500000\n")
    write(cpufreq / "cpuinfo_max_freq", "2400000\n")
    for zone, (kind, temperature) in enumerate([("cpu-thermal", "48312"), ("cpu-thermal", "50000"), ("gpu", "broken")]):
        write(root / f"sys/class/thermal/thermal_zone{zone}/type", f"{kind}\n")
        write(root / f"sys/class/thermal/thermal_zone{zone}/temp", f"{temperature}\n")
    write(tools / "vcgencmd", "#!/bin/sh\necho throttled=0x50005\n")
    (tools / "vcgencmd").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    return root


def test_board(board: Path) -> None:
    found = conditions(board)
    assert found.board == "Raspberry Pi 5 Model B Rev 1.0"
    assert found.cpu is None
    assert found.isa == ("asimd", "asimddp")
    assert (found.governor, found.clock_mhz, found.max_clock_mhz) == ("ondemand", 1500.0, 2400.0)
    assert found.temperatures_c == {"cpu-thermal": 48.312, "cpu-thermal thermal_zone1": 50.0}
    assert found.throttled == 0x50005


def test_server(tmp_path: Path) -> None:
    write(
        tmp_path / "proc/cpuinfo",
        "model name\t: Xeon 9\ncpu MHz\t\t: 2100.5\nflags\t\t: fpu fma avx2 avx512_vnni sse\n",
    )
    found = conditions(tmp_path)
    assert (found.cpu, found.clock_mhz, found.isa) == ("Xeon 9", 2100.5, ("fma", "avx2", "avx512_vnni"))


def test_nothing_is_invented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = conditions(tmp_path)
    told_by_files = (found.cpu, found.board, found.isa, found.governor, found.clock_mhz, found.max_clock_mhz)
    assert told_by_files == (None,) * 6
    assert found.temperatures_c is None and found.throttled is None


@pytest.mark.parametrize("script", ["exit 1", "echo VCHI initialization failed"])
def test_tool_that_fails_tells_nothing(board: Path, script: str) -> None:
    write(board.parent / "tools/vcgencmd", f"#!/bin/sh\n{script}\n")
    assert conditions(board).throttled is None


def test_this_machine() -> None:
    found = conditions()
    assert found.affinity == tuple(ALLOWED)
    assert found.cores == os.cpu_count()
    assert found.load_average is not None and len(found.load_average) == 3


def test_pinned_and_let_go() -> None:
    with pinned(ALLOWED[:1]):
        assert os.sched_getaffinity(0) == {ALLOWED[0]}
        assert conditions().affinity == (ALLOWED[0],)
    assert sorted(os.sched_getaffinity(0)) == ALLOWED
    with pinned(None):
        assert sorted(os.sched_getaffinity(0)) == ALLOWED


@pytest.mark.parametrize("cores", [[], [100_000], [-1]])
def test_cores_that_are_not_there(cores: list[int]) -> None:
    with pytest.raises(InvalidInputs, match="cores"), pinned(cores):
        pass
    assert sorted(os.sched_getaffinity(0)) == ALLOWED
