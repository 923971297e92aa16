"""Every network of the zoo in every engine, in float and in int8: do the files give what the networks give?

    python -m benchmarks.parity_matrix [--network resnet20 ...] [--format onnx ...] [--build]

Each network, in its form for small images, learns the handwritten digits that scikit-learn ships for a few epochs (so
that its answers mean something), is quantized with the stage's defaults, and exported in every format, in float and in
int8. Every file runs in its engine on the 360 test scans. A cell passes the gate of ``compress check``: float within
1e-3 of the largest output; int8 with at least 99 % the same first class as its simulation. Beside the engines stands
what NVIDIA's parser and builder, which need no GPU, make of the files: with ``--build`` of these, else as
``benchmarks.tensorrt_builds`` found it for the architecture. About two minutes per network on two cores; what is done
already is kept in the work folder and not done again.
"""

from __future__ import annotations

from typing import Any

import click

from benchmarks.common.frame import Run, benchmark, chosen
from export.facts import formats_here

NETWORKS = (
    *("resnet20", "resnet18_cifar:width=16", "se_resnet18:width=16", "wrn_16_4:width=16", "vgg11_bn:width=0.25"),
    *("densenet_bc_100_12:width=0.5", "regnet_x_200mf:width=0.5", "regnet_y_200mf:width=0.5", "squeezenet_1_1"),
    *("mobilenet_v1:width=0.25", "mobilenet_v2:width=0.35", "mobilenet_v3_small", "mobilenet_v3_large:width=0.5"),
    *("shufflenet_v1_g3:width=0.5", "shufflenet_v2_x0_5", "xception:width=0.25", "efficientnet_b0:width=0.5"),
    *("ghostnet:width=0.5", "vit_tiny:width=0.5"),
)
FORMATS = formats_here()
LONGER = ("squeezenet_1_1", "mobilenet_v1:width=0.25", "mobilenet_v2:width=0.35", "shufflenet_v2_x0_5")
"""Networks that learn for three times as long: after the others' epochs they still guess at many scans."""
BAR_PERCENT = 95.0


def shown(cell: dict[str, Any]) -> str:
    """A cell of the table: the error in float; the agreement and the nodes in integers and in float in int8."""
    parity, nodes = cell.get("parity"), cell.get("nodes")
    if parity is None:
        return "no"
    mark = "" if cell["passed"] else "**no** "
    if cell["kind"] == "float32":
        return f"{mark}{parity['relative_error']:.1e}"
    share = f", {nodes['integer']}/{nodes['float']}" if nodes else ""
    return f"{mark}{parity['top1_agreement']:.1f} %{share}"


@benchmark("parity_matrix", __doc__)
@click.option("--network", "names", multiple=True, help="All of the zoo's architectures by default.")
@click.option("--format", "wanted", multiple=True, type=click.Choice(FORMATS), help="All by default.")
@click.option("--epochs", default=6, show_default=True)
@click.option("--build", is_flag=True, help="Give the files to TensorRT's builder as well, half a minute per network.")
def main(run: Run, names: tuple[str, ...], wanted: tuple[str, ...], epochs: int, build: bool) -> None:
    from benchmarks import tensorrt_builds
    from benchmarks.common.results import Column
    from benchmarks.parity_matrix import builder
    from benchmarks.parity_matrix.measure import row
    from compress.data import DataConfig, load

    data = load(DataConfig(source="digits", size=32))
    formats = tuple(chosen(wanted, FORMATS, quick=run.quick))
    rows: list[dict[str, Any]] = []
    cells: list[tuple[str, dict[str, Any]]] = []
    refused: list[str] = []
    for name in chosen(names, NETWORKS, quick=run.quick):
        length = 1 if run.quick else epochs * (3 if name in LONGER else 1)
        found = row(name, data, formats, run.work, length, run.part, tensorrt_builds.built if build else None)
        texts = {key.replace(" ", "_"): shown(cell) for key, cell in found["cells"].items()}
        texts |= {builder.KEYS[kind]: builder.shown(cell) for kind, cell in found["builds"].items()}
        refused += [
            f"{name}, {kind} is not built: {cell['message']}."
            for kind, cell in found["builds"].items()
            if not cell["built"]
        ]
        rows.append({"network": name, "top1_percent": found["top1_percent"], **texts})
        cells += [(f"{name}, {key}", cell) for key, cell in found["cells"].items()]
        run.say(f"{name}: {rows[-1]}")
    passed = sum(cell["passed"] for _, cell in cells)
    run.table(
        (
            Column(key="networks", title="networks"),
            Column(key="engines", title="engines"),
            Column(key="passed", title="cells that pass"),
            Column(key="cells", title="of"),
        ),
        ({"networks": len(rows), "engines": len(formats), "passed": passed, "cells": len(cells)},),
    )
    run.table(
        (
            Column(key="network", title="network"),
            Column(key="top1_percent", title="test top-1", unit="%", decimals=1),
            *(Column(key=f"{f}_{kind}", title=f"{f} {kind}") for f in formats for kind in builder.KINDS),
            *(builder.COLUMNS if build else ()),
        ),
        rows,
        notes=(
            *(f"{key} does not pass: {'; '.join(cell['reasons'])}." for key, cell in cells if not cell["passed"]),
            *refused,
        ),
    )
    run.note(NOTE)
    run.bar("cells that pass", 100 * passed / len(cells), BAR_PERCENT, "at least", "%")


NOTE = (
    "Float: the largest error relative to the largest output (gate: 1e-3). Int8: the share of scans with the same "
    "first class as the simulation (gate: 99 %), and how many nodes ran in integers / in float, as the engine tells."
)


if __name__ == "__main__":
    main()
