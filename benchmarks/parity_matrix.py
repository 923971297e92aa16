"""Every network of the zoo in every engine, in float and in int8: do the files give what the networks give?

python benchmarks/parity_matrix.py [--network resnet20 ...] [--format onnx ...] [-o benchmarks/parity.md]

Each network, in its form for small images, learns the handwritten digits that scikit-learn ships for a few epochs (so
that its answers mean something), is quantized with the stage's defaults, and exported in every format, in float and in
int8. Every file runs in its engine on the 360 test scans. A cell passes the gate of ``compress check``: float within
1e-3 of the largest output; int8 with at least 99 % the same first class as its simulation. About two minutes per
network on two cores; what is done already is kept in the work folder and not done again.
"""

from __future__ import annotations

import json
import platform
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import torch
from safetensors.torch import save_file

import export.format as formats_
from compress import deploy
from compress.data import Data, DataConfig
from compress.data import load as load_data
from compress.errors import CompressError
from compress.load import Network
from compress.pipeline import fold_for_export, open_network
from compress.quantize import Quantize
from compress.stage import Context
from compress.train import Training, top1
from runtimes import gate
from runtimes.errors import RuntimesError
from runtimes.runtime import available

NETWORKS = (
    *("resnet20", "resnet18_cifar:width=16", "se_resnet18:width=16", "wrn_16_4:width=16", "vgg11_bn:width=0.25"),
    *("densenet_bc_100_12:width=0.5", "regnet_x_200mf:width=0.5", "regnet_y_200mf:width=0.5", "squeezenet_1_1"),
    *("mobilenet_v1:width=0.25", "mobilenet_v2:width=0.35", "mobilenet_v3_small", "mobilenet_v3_large:width=0.5"),
    *("shufflenet_v1_g3:width=0.5", "shufflenet_v2_x0_5", "xception:width=0.25", "efficientnet_b0:width=0.5"),
    *("ghostnet:width=0.5", "vit_tiny:width=0.5"),
)
FORMATS = ("onnx", "litert", "ncnn", "executorch", "openvino")
TRAINING: dict[str, Any] = {
    "batch_size": 64,
    "optimizer": "adamw",
    "learning_rate": 2e-3,
    "weight_decay": 1e-2,
    "precision": "fp32",
    "accelerator": "cpu",
}
LEARNING_RATE = {"squeezenet_1_1": 5e-4}
"""Of networks without batch norms."""
LONGER = ("squeezenet_1_1", "mobilenet_v1:width=0.25", "mobilenet_v2:width=0.35", "shufflenet_v2_x0_5")
"""Networks that learn for three times as long: after the others' epochs they still guess at many scans."""
BAR = 0.95


def trained(name: str, data: Data, weights: Path, epochs: int) -> Network:
    """The network, trained or as it was left by an earlier run."""
    if weights.exists():
        return open_network(name, weights=weights, data=data)
    network = open_network(name, data=data)
    rate = LEARNING_RATE.get(name, TRAINING["learning_rate"])
    result = Training(epochs=epochs, **{**TRAINING, "learning_rate": rate}).apply(
        network.model, Context(network.example_inputs, data)
    )
    weights.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in result.model.state_dict().items()}, weights)
    return open_network(name, weights=weights, data=data)


def cell(network: Network, data: Data, name: str, folder: Path) -> dict[str, Any]:
    """What the gate finds of one file."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        (record,) = deploy.write_folder(network, folder, [deploy.Wanted(name)], data, samples=360)
        (checked,) = gate.check_folder(folder)
    except (CompressError, RuntimesError) as error:
        return {"passed": False, "reasons": [str(error)]}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {**gate.to_json(checked), "notes": list(record.notes)}


def row(name: str, data: Data, wanted: tuple[str, ...], work: Path, epochs: int) -> dict[str, Any]:
    """A network in all formats; cells that an earlier run left are kept."""
    slug = name.replace(":", "-").replace("=", "-").replace(",", "-")
    kept = work / f"{slug}.json"
    found: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {"cells": {}}
    missing = [f for f in wanted if any(f"{f} {kind}" not in found["cells"] for kind in ("float32", "int8"))]
    if not missing:
        return found
    network = trained(name, data, work / f"{slug}.safetensors", epochs)
    found["top1"] = top1(network.model, data.split("test"))
    plain = fold_for_export(network)
    result = Quantize().apply(plain.model, Context(plain.example_inputs, data))
    integers = Network(result.model, plain.source, encodings=result.encodings, example_inputs=plain.example_inputs)
    for each in missing:
        for kind, made in (("float32", plain), ("int8", integers)):
            if f"{each} {kind}" in found["cells"]:
                continue
            found["cells"][f"{each} {kind}"] = cell(made, data, each, work / f"{slug}-{each}-{kind}")
            kept.write_text(json.dumps(found, indent=1))
    return found


def told(found: dict[str, Any] | None) -> str:
    """A cell of the table."""
    if found is None:
        return "not run"
    parity, nodes = found.get("parity"), found.get("nodes")
    if parity is None:
        return "no"
    mark = "" if found["passed"] else "**no** "
    if found["kind"] == "float32":
        return f"{mark}{parity['relative_error']:.1e}"
    share = f", {nodes['integer']}/{nodes['float']}" if nodes else ""
    return f"{mark}{parity['top1_agreement']:.1f} %{share}"


def table(found: dict[str, dict[str, Any]], wanted: tuple[str, ...]) -> str:
    """The matrix in Markdown, with the reason of every cell that does not pass."""
    versions = ", ".join(f"{f} {available(formats_.formats()[f].engine)[0]}" for f in wanted)
    cells = [(n, key, c) for n, each in found.items() for key, c in each["cells"].items()]
    passed = sum(c["passed"] for _, _, c in cells)
    lines = [
        "# Every network in every engine",
        "",
        f"Printed by `python benchmarks/parity_matrix.py`, {datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, seed 0. "
        f"Engines: {versions}.",
        "",
        "Each network learnt the digits for a few epochs, slow learners for three times as many; every file ran on 360 "
        "test scans. Float: the largest error "
        "relative to the largest output (gate: 1e-3). Int8: the share of scans with the same first class as the "
        "simulation (gate: 99 %), and how many nodes ran in integers / in float, as the engine tells.",
        "",
        f"**{passed} of {len(cells)} cells pass ({100 * passed / max(1, len(cells)):.1f} %).**",
        "",
        "| network | test top-1 | " + " | ".join(f"{f} {kind}" for f in wanted for kind in ("float32", "int8")) + " |",
        "|---" * (2 + 2 * len(wanted)) + "|",
    ]
    for name, each in found.items():
        cells_of = [told(each["cells"].get(f"{f} {kind}")) for f in wanted for kind in ("float32", "int8")]
        lines.append(f"| {name} | {each['top1']:.1f} % | " + " | ".join(cells_of) + " |")
    failed = [(n, key, c) for n, key, c in cells if not c["passed"]]
    if failed:
        lines += ["", "What does not pass, and why:", ""]
        lines += [f"- {n}, {key}: {'; '.join(c['reasons'])}" for n, key, c in failed]
    return "\n".join(lines) + "\n"


@click.command()
@click.option("--network", "names", multiple=True, help="All of the zoo's architectures by default.")
@click.option("--format", "wanted", multiple=True, type=click.Choice(FORMATS), help="All by default.")
@click.option("--epochs", default=6, show_default=True)
@click.option("--work", type=click.Path(path_type=Path), default="out/parity", show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), default="out/parity.md", show_default=True)
def main(names: tuple[str, ...], wanted: tuple[str, ...], epochs: int, work: Path, output: Path) -> None:
    """Write the table, and print it."""
    torch.set_num_threads(1)
    data = load_data(DataConfig(source="digits", size=32))
    work.mkdir(parents=True, exist_ok=True)
    found = {}
    for name in names or NETWORKS:
        found[name] = row(name, data, wanted or FORMATS, work, epochs * (3 if name in LONGER else 1))
        good = sum(each["passed"] for each in found[name]["cells"].values())
        print(f"{name}: {found[name]['top1']:.1f} %, {good} of {len(found[name]['cells'])} cells", flush=True)
    text = table(found, wanted or FORMATS)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(text)
    print(text)
    cells = [each for one in found.values() for each in one["cells"].values()]
    share = sum(each["passed"] for each in cells) / len(cells)
    print(f"cells that pass: {100 * share:.1f} % (bar {100 * BAR:.0f} %: {share >= BAR})")


if __name__ == "__main__":
    main()
