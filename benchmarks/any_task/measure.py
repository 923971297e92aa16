"""A case from random weights to scored files: in float and int8, as it is and at half of its multiply-adds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.any_task.case import Case
from benchmarks.common.frame import slug
from benchmarks.common.steps import applied
from compress import Context, Prune, Quantize, Task, deploy
from compress.cost.count import cost
from compress.data import Data, SplitName
from compress.pipeline import fold_for_export, open_network
from compress.sources.load import Network
from compress.tasks.resolve import resolve

AS_TRAINED, HALF = "as trained", "half of the MACs"
FORMATS = ("onnx", "litert", "openvino")
WAYS: dict[str, dict[str, Any]] = {
    "min-max": {},
    "mse, bias correction": {"ranges": {"calibration": "mse"}, "recover": "bias_correction"},
    "trained without labels": {"train": {"epochs": 3}},
}
"""Of finding integers; labels serve none of them."""


def measured(case: Case, data: Data, folder: Path, seed: int, *, quick: bool) -> list[dict[str, Any]]:
    """Test scores of the case's files, a record of each, with what it lost of the float network's."""
    start = open_network(case.network, data=data, seed=seed)
    training, tuning = (t.model_copy(update={"epochs": 1}) if quick else t for t in (case.training, case.tuning))
    fitted = _task(case.task, start)
    trained = applied(start, training, data, folder / "float", name="train", teacher=None, seed=seed, task=fitted)
    task = _task(case.scored, trained)
    stage = Prune(macs=2, training=tuning)
    half = applied(trained, stage, data, folder / "half", name="prune", teacher=trained, seed=seed, task=task)
    rows: list[dict[str, Any]] = []
    for title, network in ((AS_TRAINED, trained), (HALF, half)):
        macs = cost(network.model, network.example_inputs).macs
        plain = fold_for_export(network)
        way, integers = _integers(plain, trained, data, folder, task, seed, quick)
        for kind, made, how in (("float", plain, ""), ("int8", integers, way)):
            for form in FORMATS[:1] if quick else FORMATS:
                file = folder / slug(f"{title} {kind}")
                found = _scored(made, file, form, data, "test", task)
                rows.append({"network": title, "numbers": kind, "way": how, "format": form, "macs": macs, **found})
    plain_score = rows[0]["score"]
    sign = 1 if task.higher_is_better else -1
    for row in rows:
        lost = sign * (plain_score - row["score"])
        row["lost"] = 100 * lost / plain_score if case.relative else lost
    return rows


def _task(task: Task | str, network: Network) -> Task:
    """The task for a network, measured against it where it has no labels to be measured against."""
    return resolve(task, network.model, None, network.example_inputs).against(network.model)


def _integers(
    network: Network, teacher: Network, data: Data, folder: Path, task: Task, seed: int, quick: bool
) -> tuple[str, Network]:
    """The way whose ONNX file scores best on the validation split, and the network in its integers."""
    best: tuple[float, str, Network] | None = None
    sign = 1 if task.higher_is_better else -1
    for way, settings in list(WAYS.items())[: 1 if quick else None]:
        context = Context(network.example_inputs, data, teacher=teacher.model, seed=seed, task=_unlabelled(task))
        result = Quantize.model_validate({"revert_slower": False, **settings}).apply(network.model, context)
        made = replace(network, model=result.model, encodings=result.encodings)
        value = sign * _scored(made, folder / "candidate", "onnx", data, "validation", task)["score"]
        if best is None or value > best[0]:
            best = value, way, made
    assert best is not None
    return best[1], best[2]


def _unlabelled(task: Task) -> Task:
    """The task without its loss: what is trained learns from the teacher alone."""
    return replace(task, loss=None)


def _scored(network: Network, file: Path, form: str, data: Data, split: SplitName, task: Task) -> dict[str, Any]:
    """Write the file; what it scores on a split in its engine, its first score; and its bytes."""
    wanted = deploy.Wanted(format=form)
    path = file.with_suffix(deploy.write.suffix_of(wanted))
    path.unlink(missing_ok=True)
    record, deployed = deploy.export(network, file.name, path, wanted)
    tested = replace(data, splits={"test": data.split(split)})
    return {"score": deploy.scores(deployed, tested, task)[0].value, "bytes": record.size_bytes}
