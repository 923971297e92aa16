"""Which measurements belong together, what is different in them, and which limits hold."""

from __future__ import annotations

from typing import Any

import pytest

from compress.compare.comparison import Comparison
from compress.compare.limits import Limits, checks
from compress.compare.outcome import Outcome, compared, remarks, verdict
from compress.compare.pairing import against_one, matched
from compress.errors import InvalidInput
from compress.report import BenchmarkRecord
from tests.support.measurements import CONDITIONS, record, samples

POWER = {"rail": "VDD_IN", "source": "ina3221", "joules": 1.0, "seconds": 1.0, "runs": 10}


def made(*args: Any, **known: Any) -> BenchmarkRecord:
    return BenchmarkRecord.model_validate(record(*args, **known))


def pair(**known: Any) -> Comparison:
    return Comparison(made(), made(seed=1, **known))


def names(before: list[BenchmarkRecord], after: list[BenchmarkRecord]) -> list[tuple[str, str]]:
    return [(one.name, other.name) for one, other in matched(before, after).pairs]


def test_a_single_measurement_on_each_side_is_a_pair() -> None:
    assert names([made("a")], [made("b", runtime="ncnn")]) == [("a", "b")]


def test_measurements_are_matched_by_name_engine_threads_and_device() -> None:
    board = CONDITIONS | {"cpu": "A76"}
    before = [made("a"), made("a", threads=4), made("a", conditions=board), made("a", runtime="ncnn"), made("b")]
    after = [before[i] for i in (3, 2, 1, 0)] + [made("c", runtime="litert")]
    found = matched(before, after)
    assert [one is other for one, other in found.pairs] == [True] * 4
    assert [each.name for each in found.only_before] == ["b"] and [each.name for each in found.only_after] == ["c"]


def test_a_file_that_was_renamed_is_known_by_its_content_or_its_last_name() -> None:
    before = [made("out/one/net.onnx"), made("old.onnx", sha256="5"), made("x")]
    after = [made("new.onnx", sha256="5"), made("out/two/net.onnx"), made("y")]
    assert names(before, after) == [("out/one/net.onnx", "out/two/net.onnx"), ("old.onnx", "new.onnx")]


def test_files_alike_are_paired_in_their_order() -> None:
    before, after = [made(seed=1), made(seed=2)], [made(seed=3), made(seed=4), made(seed=5)]
    found = matched(before, after)
    assert [(before.index(a), after.index(b)) for a, b in found.pairs] == [(0, 0), (1, 1)]
    assert found.only_after == (after[2],)


def test_the_files_of_one_bench_are_compared_with_the_first_or_with_one_of_them() -> None:
    records = [made("a"), made("b"), made("c"), made("d", threads=2)]
    found = against_one(records, None)
    assert [(one.name, other.name) for one, other in found.pairs] == [("a", "b"), ("a", "c")]
    assert [each.name for each in found.only_after] == ["d"]
    assert [(one.name, other.name) for one, other in against_one(records, "b").pairs] == [("b", "a"), ("b", "c")]
    with pytest.raises(InvalidInput, match="no measurement is called so; there are a, b, c, d"):
        against_one(records, "e")
    with pytest.raises(InvalidInput, match="nothing to compare it with"):
        against_one(records, "d")


def test_samples_of_one_loop_are_paired() -> None:
    assert Comparison(made(loop="1"), made(loop="1")).ratio.paired
    assert not Comparison(made(loop="1"), made(loop="2")).ratio.paired
    assert not Comparison(made(), made()).ratio.paired


@pytest.mark.parametrize(
    ("median", "expected"), [(2.0, "no difference"), (2.2, "slower"), (1.8, "faster")], ids=["same", "slow", "fast"]
)
def test_the_verdict_is_the_intervals(median: float, expected: str) -> None:
    assert verdict(Comparison(made(), made(median=median, seed=1))) == expected


def test_without_samples_there_is_a_ratio_and_no_interval() -> None:
    told = record() | {"samples_ms": (), "latency_ms": {"p50": 3.0}}
    found = Comparison(
        BenchmarkRecord.model_validate(told | {"latency_ms": {"p50": 2.0}}), BenchmarkRecord.model_validate(told)
    )
    assert found.ratio.value == 1.5 and verdict(found) == "no interval"


def test_everything_that_changed_is_told() -> None:
    after = made(
        runtime_version="1.32.0",
        versions={"numpy": "2.5"},
        size_bytes=1100,
        peak_memory_bytes=50_200_000,
        top1=89.5,
        nodes={"integer": 6, "float": 2, "other": 1},
        preset="mlperf",
        energy=POWER | {"per_run_mj": 3.0},
        conditions=CONDITIONS | {"governor": "powersave", "clock_mhz": 5.0},
        sha256="b" * 64,
    )
    before = made(
        energy=POWER | {"per_run_mj": 2.0}, versions={"numpy": "2.4", "torch": "2"}, preset="quick", sha256="a" * 64
    )
    told = {change.what: change.words.replace("\u00a0", " ") for change in Comparison(before, after).changes}
    assert told == {
        "size": "size 1.00 kB → 1.10 kB (+10.0 %)",
        "energy of a run": "energy of a run 2.00 mJ → 3.00 mJ (+50.0 %)",
        "top-1": "top-1 90.00 % → 89.50 % (-0.50 points)",
        "nodes": "nodes 8 integer, 0 float, 1 other → 6 integer, 2 float, 1 other (2 fell back to float)",
        "version of onnxruntime": "version of onnxruntime 1.31.1 → 1.32.0",
        "version of numpy": "version of numpy 2.4 → 2.5",
        "preset": "preset quick → mlperf",
        "governor": "governor performance → powersave",
        "SHA-256": "SHA-256 aaaaaaaaaaaa → bbbbbbbbbbbb",
    }
    assert Comparison(before, before).changes == ()


def judged(comparison: Comparison, limits: Limits, strict: bool = False) -> list[tuple[str, str]]:
    return [(check.name, check.outcome) for check in checks(comparison, limits, strict=strict)]


def test_a_slowdown_over_the_limit_that_is_no_chance_breaks_it() -> None:
    limits = Limits(slowdown=5)
    assert judged(pair(median=2.2), limits) == [("slowdown", "broken")]
    assert judged(pair(median=2.08), limits) == [("slowdown", "holds")]
    assert judged(pair(median=1.0), limits) == [("slowdown", "holds")]
    noisy = Comparison(made(), made(samples_ms=[*samples(1.0, 90), *samples(2.2, 110)]))
    assert noisy.ratio.value > 1.05 and judged(noisy, limits) == [("slowdown", "undecided")]


def test_times_that_are_not_to_be_trusted_decide_nothing_where_that_is_asked_for() -> None:
    shaky = pair(median=2.2, valid=False, notes=["spread of 40%"])
    assert shaky.invalid == ("after: spread of 40%",)
    assert judged(shaky, Limits(slowdown=5)) == [("slowdown", "broken")]
    assert judged(shaky, Limits(slowdown=5), strict=True) == [("slowdown", "undecided")]
    assert "invalid after: spread of 40%" in remarks(shaky, ())


def test_growth_and_loss_have_limits_and_what_was_not_measured_breaks_them() -> None:
    limits = Limits(growth=2, memory_growth=10, loss=0.5)
    assert judged(pair(size_bytes=1020, top1=89.5), limits) == [
        ("file growth", "holds"), ("memory growth", "holds"), ("accuracy loss", "holds"),
    ]  # fmt: skip
    assert {outcome for _, outcome in judged(pair(size_bytes=1021, peak_memory_bytes=10**8, top1=89.49), limits)} == {
        "broken"
    }
    unknown = pair(size_bytes=None, peak_memory_bytes=None, top1=None)
    assert {outcome for _, outcome in judged(unknown, limits)} == {"broken"}
    assert not checks(pair(), Limits())


def outcome_of(*after: BenchmarkRecord, across: bool = False) -> Outcome:
    return compared(
        matched([made(f"{i}") for i in range(len(after))], after), ("A", "B"), Limits(slowdown=5), across=across
    )


def test_times_of_other_devices_and_threads_are_refused_or_marked() -> None:
    for known, expected in (
        ({"threads": 2}, "1 against 2 threads"),
        ({"conditions": CONDITIONS | {"cpu": "A76"}}, "A53, aarch64 against A76, aarch64"),
        ({"conditions": CONDITIONS | {"emulated": True}}, "emulated"),
    ):
        other = made("0", median=9.0, **known)
        with pytest.raises(InvalidInput, match=expected):
            outcome_of(other)
        found = outcome_of(other, across=True)
        assert verdict(found.comparisons[0]) == "not comparable" and not found.broken and len(found.undecided) == 1


def test_the_mean_of_several_ratios_is_geometric() -> None:
    steady = [2.0] * 100
    before = [made("0", samples_ms=steady), made("1", samples_ms=steady)]
    after = [made("0", samples_ms=[4.0] * 100), made("1", samples_ms=[1.0] * 100)]
    assert compared(matched(before, after), ("A", "B"), Limits()).mean_ratio == pytest.approx(1.0)
    assert outcome_of(made()).mean_ratio is None


def test_nothing_in_common_is_an_error() -> None:
    with pytest.raises(InvalidInput, match="A has a, b; B has c, d"):
        compared(matched([made("a"), made("b")], [made("c"), made("d")]), ("A", "B"), Limits())
