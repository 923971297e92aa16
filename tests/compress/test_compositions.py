"""Stages compose: what comes out of one is quantized and deployed as if it had always been so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from compress import Context, Fold, Prune
from compress.quantize import Quantize, simulate
from compress.sources.onnx_import import load_onnx
from compress.sparsify import Sparsify
from compress.stage import Stage
from export.onnx.exporter import export_onnx
from runtimes.runtime import load
from tests.support.small_classifier import SmallNet
from tests.support.small_networks import EXACT_TARGET, context_on, snr_db

QUANTIZERS = {
    "int8": Quantize(),
    "w4a8": Quantize(scheme="w4a8", recover=[{"bias_correction": "empirical"}]),
    "adaround": Quantize(scheme="w4a8", recover=[{"adaround": 20}]),
    "equalized": Quantize(ranges={"calibration": "mse"}, recover=["equalize"]),
}
FIRST: dict[str, tuple[Stage, ...]] = {
    "pruned": (Prune(ratio=0.5),),
    "folded and pruned": (Fold(), Prune(ratio=0.25, round_to=2)),
    "sparse": (Sparsify(sparsity=0.5),),
}


def small() -> tuple[SmallNet, torch.Tensor, Context]:
    torch.manual_seed(0)
    model, images = SmallNet(width=16), torch.randn(32, 1, 8, 8)
    model.train()(images)
    return model.eval(), images, context_on((images,))


def agreement_db(
    model: torch.nn.Module, images: torch.Tensor, quantizer: Quantize, context: Context, path: Path
) -> float:
    """SNR of the deployed file beside its simulation; every layer of the file runs in integers."""
    result = quantizer.apply(model, context)
    export_onnx(result.model, context.example_inputs, path, encodings=result.encodings, target=EXACT_TARGET)
    engine = load(path)
    feed = {engine.inputs[0].name: images.numpy()}
    (outputs,) = engine.run(feed).values()
    executed = engine.executed_graph(feed)
    engine.close()
    assert executed is not None and executed.float == 0 and executed.integer >= 3
    with torch.no_grad():
        simulated = simulate(result.model, result.encodings, context.example_inputs, target=EXACT_TARGET)(images)
    return snr_db(simulated, torch.from_numpy(np.asarray(outputs)))


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ("pruned", "int8"),
        ("pruned", "w4a8"),
        ("folded and pruned", "adaround"),
        ("folded and pruned", "equalized"),
        ("sparse", "int8"),
    ],
)
def test_a_changed_network_is_quantized_and_deployed(first: str, then: str, tmp_path: Path) -> None:
    model, images, context = small()
    network: torch.nn.Module = model
    for stage in FIRST[first]:
        network = stage.apply(network, context).model
    assert agreement_db(network, images, QUANTIZERS[then], context, tmp_path / "net.onnx") > 30


def test_zeros_of_a_sparse_network_stay_zeros_in_4_bits() -> None:
    model, _, context = small()
    sparse = Sparsify(sparsity=0.5).apply(model, context).model
    result = Quantize(scheme="w4a8").apply(sparse, context)
    before, after = sparse.conv1.weight, result.model.conv1.weight  # type: ignore[union-attr]
    assert bool((after[before == 0] == 0).all()) and bool((before == 0).any())  # type: ignore[index, union-attr]


@pytest.mark.parametrize("then", ["int8", "adaround"])
def test_a_file_whose_source_is_lost_is_pruned_and_quantized(then: str, tmp_path: Path) -> None:
    model, images, context = small()
    export_onnx(Fold().apply(model, context).model, (images[:1],), tmp_path / "lost.onnx")
    assert onnx.load(str(tmp_path / "lost.onnx")).graph.node
    network = load_onnx(tmp_path / "lost.onnx")
    pruned = Prune(ratio=0.25, round_to=2).apply(network, replace(context, example_inputs=(images[:2],))).model
    assert agreement_db(pruned, images, QUANTIZERS[then], context, tmp_path / "net.onnx") > 30
