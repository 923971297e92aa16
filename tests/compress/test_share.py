"""The stage Share: k-means against its own rules, zeros that stay, codebooks, training, and deep compression."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from compress import Context
from compress.errors import InvalidInput
from compress.packing import pack, unpack
from compress.quantize import simulate
from compress.share import Share, cluster
from compress.sparsify import Sparsify
from compress.training.loop import Training
from export.onnx.exporter import export_onnx
from runtimes.runtime import load
from tests.support.small_classifier import SmallNet
from tests.support.small_networks import Three, context_on, labelled

GENERATOR = np.random.default_rng(0)


@pytest.mark.parametrize("start", ["linear", "density", "random"])
def test_k_means_rests_where_centers_are_means(start: str) -> None:
    values = np.random.default_rng(1).normal(size=4000).astype(np.float32)
    book, codes, frozen = cluster(values, 16, start, GENERATOR)  # type: ignore[arg-type]
    assert not frozen.any() and np.all(np.diff(book) > 0)
    nearest = np.abs(values[:, None] - book).argmin(1)
    assert (nearest != codes).mean() < 0.005
    for code in range(16):
        assert book[code] == pytest.approx(values[codes == code].mean(), abs=2e-2)
    error = float(((book[codes] - values) ** 2).mean())
    assert error < 0.05


def test_zeros_are_their_own_cluster() -> None:
    values = np.array([0, 0, 0.01, -0.01, 1, 0, 2], np.float32)
    book, codes, frozen = cluster(values, 4, "linear", GENERATOR)
    assert frozen.tolist() == [True, False, False, False] and book[0] == 0
    assert codes[values == 0].tolist() == [0, 0, 0] and (codes[values != 0] > 0).all()
    few = np.array([0, 3, 3, -1], np.float32)
    book, codes, _ = cluster(few, 8, "linear", GENERATOR)
    assert np.array_equal(book[codes], few), "few values are kept as they are"


@pytest.mark.parametrize("scope", ["layer", "channel"])
def test_weights_have_codebooks(scope: str) -> None:
    torch.manual_seed(0)
    model, images = Three().eval(), torch.randn(8, 3, 8, 8)
    result = Share(bits=3, scope=scope).apply(model, context_on((images,)))
    assert "hidden.weight" in result.encodings if scope == "layer" else "middle.0.weight" in result.encodings
    for name, encoding in result.encodings.items():
        values = result.model.get_parameter(name).detach().numpy()
        assert encoding.kind == "levels" and encoding.levels is not None
        assert len(encoding.levels) == (1 if scope == "layer" else len(values))
        assert len(encoding.levels[0]) == 8
        assert np.array_equal(encoding.decoded(encoding.codes(values)), values)
        closeness = np.abs(values - model.get_parameter(name).detach().numpy()).mean()
        assert closeness < 0.1


def test_sparse_weights_stay_sparse_and_training_helps() -> None:
    torch.manual_seed(0)
    data = labelled()
    x, _ = next(iter(data.split("train").batches(8)))
    context = Context((x,), data=data)
    sparse = Sparsify(sparsity=0.6).apply(Three().eval(), context).model
    training = Training(
        epochs=8, batch_size=16, optimizer="adamw", learning_rate=1e-2, weight_decay=0.0, precision="fp32"
    )
    result = Share(bits=2, training=training).apply(sparse, context)
    assert result.history[-1]["loss"] < result.history[0]["loss"]
    for name in result.encodings:
        zeros = sparse.get_parameter(name) == 0
        assert bool((result.model.get_parameter(name)[zeros] == 0).all()), "zeros stay zero"
        assert float(zeros.float().mean()) > 0.4


def test_deep_compression_is_whole_after_unpacking(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, images = SmallNet(width=32).eval(), torch.randn(4, 1, 8, 8)
    context = context_on((images,))
    sparse = Sparsify(sparsity=0.9).apply(model, context).model
    shared = Share(bits=4).apply(sparse, context)
    export_onnx(shared.model, (images,), tmp_path / "net.onnx", encodings=shared.encodings)
    export_onnx(model, (images,), tmp_path / "float.onnx")
    packed = pack(tmp_path / "net.onnx", tmp_path / "net.packed")
    assert packed.packed_bytes < (tmp_path / "net.onnx").stat().st_size < (tmp_path / "float.onnx").stat().st_size / 3
    unpack(tmp_path / "net.packed", tmp_path / "back.onnx")
    engine = load(tmp_path / "back.onnx")
    (got,) = engine.run({engine.inputs[0].name: images.numpy()}).values()
    engine.close()
    with torch.no_grad():
        expected = simulate(shared.model, shared.encodings, (images,))(images)
    np.testing.assert_allclose(np.asarray(got), expected.numpy(), rtol=1e-4, atol=1e-5)


def test_refusals() -> None:
    model, images = Three().eval(), torch.randn(2, 3, 8, 8)
    with pytest.raises(InvalidInput, match="smaller than its codebook"):
        Share(bits=8, scope="channel").apply(model, context_on((images,)))
    with pytest.raises(InvalidInput, match="no data to train on"):
        Share(training=Training(epochs=1)).apply(model, Context((images,)))
