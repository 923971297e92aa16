"""Widths by measured latency against widths by rounding, at the same number of multiply-adds.

    python benchmarks/widths.py                     # int8, 1 thread
    python benchmarks/widths.py --precision float --macs 4

ResNet-20 (the shipped CIFAR-10 baseline) is pruned to the same target by each rule, without fine-tuning: accuracy is
not looked at. The files are quantized on random inputs, which latency does not depend on, and timed interleaved.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from compress import Context, Fold, MachineClock, Prune, Quantize, deploy  # noqa: E402
from compress.cost import cost  # noqa: E402
from compress.data import Data, SampleSplit  # noqa: E402
from compress.load import Network  # noqa: E402
from compress.pipeline import open_network  # noqa: E402

RULES: tuple[int | str, ...] = (1, 2, 8, "measured")


def deployed(network: Network, precision: str, name: str, path: Path) -> deploy.Deployed:
    """The network as a file, folded and, in int8, quantized on random inputs."""
    x = network.example_inputs
    context = Context(x, Data("random", {"calibration": SampleSplit(x[0], None)}))
    made = replace(network, model=Fold().apply(network.model, context).model)
    if precision == "int8":
        quantized = Quantize().apply(made.model, context)
        made = replace(made, model=quantized.model, encodings=dict(quantized.encodings))
    deploy.export(made, name, path)
    return deploy.Deployed(name, path)


def widths(model: nn.Module) -> str:
    """The output channels of the convolutions, in order."""
    return " ".join(str(m.out_channels) for m in model.modules() if isinstance(m, nn.Conv2d))


def main() -> None:
    """Prune by every rule, write the files, time them, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", choices=["int8", "float"], default="int8")
    parser.add_argument("--macs", type=float, default=2.5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--preset", choices=["quick", "standard"], default="standard")
    parser.add_argument("--json", type=Path, help="write the figures here")
    given = parser.parse_args()
    torch.set_num_threads(1)
    base = open_network(
        "resnet20", weights=ROOT / "benchmarks/checkpoints/resnet20_cifar10.safetensors", input_shapes=((1, 3, 32, 32),)
    )
    networks = {"not pruned": base}
    for rule in RULES:
        options = {"round_to": rule, "precision": given.precision, "threads": given.threads}
        stage = Prune.model_validate({"macs": given.macs, "criterion": "l2", **options})
        pruned = stage.apply(base.model, Context(base.example_inputs, clock=MachineClock())).model
        networks[f"round_to: {rule}"] = replace(base, model=pruned)
    with tempfile.TemporaryDirectory() as folder:
        files = [
            deployed(network, given.precision, name, Path(folder, f"{number}.onnx"))
            for number, (name, network) in enumerate(networks.items())
        ]
        records = deploy.measure(files, threads=given.threads, preset=given.preset)
    whole = cost(base.model, base.example_inputs).macs
    print(f"ResNet-20, {given.precision}, {given.threads} thread(s), {deploy.machine()['cpu']}")
    print(f"{'':20} {'MACs':>10} {'fewer':>6} {'p50 ms':>8} {'p90 ms':>8} {'stable':>7}  widths")
    rows = []
    for (name, network), record in zip(networks.items(), records, strict=True):
        macs = cost(network.model, network.example_inputs).macs
        latency = record.latency_ms
        rows.append({"rule": name, "macs": macs, "p50_ms": latency.p50, "p90_ms": latency.p90, "stable": record.stable})
        print(
            f"{name:20} {macs / 1e6:8.2f} M {whole / macs:6.2f} {latency.p50:8.3f} {latency.p90:8.3f} "
            f"{'yes' if record.stable else 'no':>7}  {widths(network.model)}"
        )
    if given.json is not None:
        given.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
