"""Every network in the builder of TensorRT

    python -m benchmarks.tensorrt_builds [--network resnet20 ...] [--gpu ampere ...]

Each network, with random weights and narrower than it is by default, is written in float32, in float16 and in int8
(ranges of random inputs), and given to the parser and the builder of TensorRT for RTX, which need no GPU. They tell
which numbers the products of the engine run in. About half a minute per network on two cores.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from benchmarks.common.frame import Run, benchmark, chosen

if TYPE_CHECKING:
    from compress.sources.load import Network

KINDS = ("float32", "float16", "int8")
BAR_PERCENT = 95.0


def in_numbers(network: Network, kind: str) -> Network:
    """The network folded, and in float16 or int8 if asked."""
    from compress import Context, Fold, Quantize
    from compress.data import Data, SampleSplit

    x = network.example_inputs
    context = Context(x, Data("random", {"calibration": SampleSplit(x[0], None)}))
    folded = replace(network, model=Fold().apply(network.model, context).model)
    if kind == "float32":
        return folded
    made = Quantize(scheme="fp16" if kind == "float16" else "int8").apply(folded.model, context)
    return replace(folded, model=made.model, encodings=dict(made.encodings))


def built(network: Network, gpus: tuple[str, ...] = ()) -> dict[str, Any]:
    """What becomes of the file of a network, in the numbers that it has."""
    from compress.deploy import builds
    from compress.errors import CompressError
    from export.format import Job
    from export.onnx.exporter import export

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "net.onnx")
        try:
            export(Job(network.model, network.example_inputs, "tensorrt", network.encodings), path)
            (found,) = builds.try_builds(path, "tensorrt-rtx", gpus)
        except CompressError as error:
            return {"built": False, "message": str(error), "products": None}
    return builds.to_json(found)


def narrow(name: str) -> str:
    """The network at a width that is quickly written: 16 channels in the first stage, or half of all."""
    counts_channels = "resnet" in name or name.startswith("wrn")
    return f"{name}:width={16 if counts_channels else 0.5}"


def _opened_and_built(name: str, kind: str, gpus: tuple[str, ...]) -> dict[str, Any]:
    from compress.errors import CompressError
    from compress.pipeline import open_network

    try:
        network = in_numbers(open_network(narrow(name)), kind)
    except CompressError as error:
        return {"built": False, "message": str(error), "products": None}
    return built(network, gpus)


def shown(cell: dict[str, Any]) -> str:
    """A cell of the table: in which numbers its products run, the most frequent first."""
    if not cell["built"]:
        return "**no**"
    products = cell["products"]
    if products is None:
        return "built"
    return ", ".join(f"{count} {kind}" for kind, count in sorted(products.items(), key=lambda item: -item[1]))


@benchmark("tensorrt_builds", __doc__)
@click.option("--network", "names", multiple=True, help="All of the zoo by default.")
@click.option("--gpu", "gpus", multiple=True, help="Kinds of GPUs; from Ampere on by default.")
def main(run: Run, names: tuple[str, ...], gpus: tuple[str, ...]) -> None:
    from benchmarks.common.results import Column
    from models import zoo

    rows: list[dict[str, Any]] = []
    cells: list[tuple[str, dict[str, Any]]] = []
    for name in chosen(names, zoo.names(), quick=run.quick):
        row: dict[str, Any] = {"network": name}
        for kind in KINDS:
            found = run.part(f"{name} {kind}", partial(_opened_and_built, name, kind, gpus), gpus=gpus)
            row[kind] = shown(found)
            cells.append((f"{name}, {kind}", found))
        rows.append(row)
        run.say(f"{name}: {row}")
    passed = sum(cell["built"] for _, cell in cells)
    run.table(
        (
            Column(key="networks", title="networks"),
            Column(key="built", title="files that are built"),
            Column(key="files", title="of"),
        ),
        ({"networks": len(rows), "built": passed, "files": len(cells)},),
    )
    run.table(
        (Column(key="network", title="network"), *(Column(key=kind, title=kind) for kind in KINDS)),
        rows,
        notes=(f"{key} is not built: {cell['message']}." for key, cell in cells if not cell["built"]),
    )
    run.note("Convolutions and matrix products of the engine by the numbers they multiply, as the builder's log tells.")
    run.bar("files that are built", 100 * passed / len(cells), BAR_PERCENT, "at least", "%")


if __name__ == "__main__":
    main()
