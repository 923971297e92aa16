"""What a run reached, and whether that is what its recipe wants."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..cost.count import cost
from ..errors import InvalidInput
from ..recipe import Gates
from ..report.schema import BenchmarkRecord, ExportRecord, Gate, LayerRecord, StageRecord, Summary
from ..siblings import runtimes
from ..sources.load import Network
from ..tasks.task import Task


def layers(network: Network) -> tuple[LayerRecord, ...]:
    """The cost of every layer that has parameters or multiply-adds, in the order in which they run."""
    costs = cost(network.model, network.example_inputs).layers
    return tuple(
        LayerRecord(
            layer=layer.layer,
            operation=layer.operation,
            params=layer.params,
            macs=layer.macs,
            activation_bytes=layer.activation_bytes,
            output_shape=layer.output_shape,
        )
        for layer in costs
        if layer.params or layer.macs
    )


def summary(exports: list[ExportRecord], benchmarks: list[BenchmarkRecord], first: Network, last: Network) -> Summary:
    """The outcome on a device; without benchmarks, as where it was lost, what was not measured is None."""
    before, after = cost(first.model, first.example_inputs), cost(last.model, last.example_inputs)
    ratios = {"macs_ratio": _ratio(before.macs, after.macs), "params_ratio": _ratio(before.params, after.params)}
    if not exports:
        return Summary(**ratios)
    if not benchmarks:
        size_ratio = _ratio(exports[0].size_bytes, exports[-1].size_bytes)
        return Summary(**ratios, size_ratio=size_ratio, baseline=exports[0].name, deployed=exports[-1].name)
    base, deployed = benchmarks[0], benchmarks[-1]
    reached = {score.name: score for score in deployed.scores}
    drops = {score.name: score.dropped(reached[score.name]) for score in base.scores if score.name in reached}
    return Summary(
        **ratios,
        speedup=_ratio(base.latency_ms.p50, deployed.latency_ms.p50),
        size_ratio=_ratio(exports[0].size_bytes, exports[-1].size_bytes),
        score_drops=drops,
        baseline=base.name,
        deployed=deployed.name,
    )


def _ratio(a: float | None, b: float | None) -> float | None:
    return a / b if a is not None and b else None


def _wanted_speedup(gates: Gates, benchmarks: list[BenchmarkRecord]) -> tuple[float | None, str]:
    """The speedup that the processor that was measured on must reach, and why this one is wanted."""
    with_products = gates.speedup_with_dot_products
    if with_products is None:
        return gates.speedup, ""
    instructions = runtimes.processor.dot_products(_instructions(benchmarks))
    if instructions is None:
        why = f" (this processor has no dot products of 8-bit integers; at least {with_products:g} with them)"
        return gates.speedup, why
    return with_products, f" (this processor has {instructions})"


def _instructions(benchmarks: list[BenchmarkRecord]) -> list[str] | None:
    """The instruction sets of the device that was measured on; None for this machine."""
    if not benchmarks or benchmarks[-1].device is None:
        return None
    told = benchmarks[-1].conditions.get("isa")
    return [str(name) for name in told] if isinstance(told, (tuple, list)) else []


def _drops_allowed(gates: Gates, summary: Summary) -> Mapping[str, float]:
    """The most that may be lost of scores, by name; a number is meant of the task's first score."""
    if gates.score_drop is None or isinstance(gates.score_drop, Mapping):
        return gates.score_drop or {}
    return {next(iter(summary.score_drops), "the score"): gates.score_drop}


def require_scores(gates: Gates, task: Task) -> None:
    """Raise InvalidInput where a gate is of a score that the task does not have."""
    wanted = gates.score_drop if isinstance(gates.score_drop, Mapping) else {}
    unknown = next((name for name in wanted if name not in task.scores), None)
    if unknown is not None or (gates.score_drop is not None and not task.scores):
        raise InvalidInput(
            f"recipe: gates: score_drop{'' if unknown is None else f': {unknown}'}: the task {task.name} has no such "
            f"score; it has {', '.join(task.scores) or 'none'}"
        )


def restoration_gates(stages: Iterable[StageRecord]) -> tuple[Gate, ...]:
    """Whether stages that were to lose no more than so much of a score (``max_drop``) do."""
    done = [(stage.name, stage.restored) for stage in stages if stage.restored is not None]
    return tuple(
        Gate(
            name=f"max_drop of {name}",
            expected=f"at most {restored.allowed:g} {restored.unit} of {restored.score} on the {restored.split} split",
            got=round(restored.after, 4),
            passed=restored.reached,
        )
        for name, restored in done
    )


def check_gates(
    gates: Gates, summary: Summary, exports: list[ExportRecord], benchmarks: list[BenchmarkRecord]
) -> tuple[Gate, ...]:
    """Each gate that is set, against what was measured; a value that could not be measured fails."""
    outcomes: list[Gate] = []

    def at_least(name: str, bound: float | None, got: float | None, why: str = "") -> None:
        if bound is not None:
            shown = None if got is None else round(got, 2)
            expected = f"at least {bound:g}{why}"
            outcomes.append(Gate(name=name, expected=expected, got=shown, passed=got is not None and got >= bound))

    speedup, why = _wanted_speedup(gates, benchmarks)
    at_least("speedup", speedup, summary.speedup, why)
    at_least("size_ratio", gates.size_ratio, summary.size_ratio)
    at_least("macs_ratio", gates.macs_ratio, summary.macs_ratio)
    for name, most in _drops_allowed(gates, summary).items():
        drop = summary.score_drops.get(name)
        # Many scores are multiples of one sample: compare without the noise of their floating-point difference.
        passed = drop is not None and round(drop, 6) <= most
        shown = None if drop is None else round(drop, 2)
        outcomes.append(Gate(name=f"score_drop of {name}", expected=f"at most {most:g}", got=shown, passed=passed))
    if gates.float_nodes is not None:
        nodes = exports[-1].nodes.float if exports and exports[-1].nodes else None
        passed = nodes is not None and nodes <= gates.float_nodes
        outcomes.append(Gate(name="float_nodes", expected=f"at most {gates.float_nodes}", got=nodes, passed=passed))
    if gates.top1_agreement is not None:
        for record in benchmarks:
            if record.score is not None and (record.parity is None or record.parity.top1_agreement is not None):
                agreement = record.parity.top1_agreement if record.parity else None
                at_least(f"top1_agreement of {record.name}", gates.top1_agreement, agreement)
    return tuple(outcomes)
