from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from compress import artifact, outputs
from compress.edits import replay
from compress.errors import InvalidInput
from compress.load import Network, Source, build
from compress.quantize.encoding import Encoding
from compress.stage import Edit


@pytest.fixture
def network(small_net_file: Path) -> Network:
    """A user's network with a halved layer and changed weights."""
    model, source = build(
        Source("file", str(small_net_file), "build", {"width": 8}, artifact._digest(small_net_file.read_bytes()))
    )
    edits = (
        Edit("conv", "out_channels", 8, 4),
        Edit("conv", "weight", (8, 1, 3, 3), (4, 1, 3, 3), "tensor", 0, (0, 2, 3, 7)),
        Edit("conv", "bias", (8,), (4,), "tensor", 0, (0, 2, 3, 7)),
        Edit("bn", "", "BatchNorm2d", "Identity", "module"),
        Edit("fc", "in_features", 8, 4),
        Edit("fc", "weight", (10, 8), (10, 4), "tensor", 1, (0, 2, 3, 7)),
    )
    replay(model, edits)
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    inputs = (torch.randn(3, 1, 8, 8, generator=generator),)
    encodings = {"conv.weight": Encoding((-1.0, -2.0, -1.0, -1.0), (1.0, 2.0, 0.5, 0.1), symmetric=True, axis=0)}
    return Network(model, source, edits, ({"stage": "prune"},), encodings, inputs)


def test_reload_in_a_new_process_bit_for_bit(network: Network, tmp_path: Path) -> None:
    artifact.save(network, tmp_path / "a")
    expected = artifact.outputs_of(network.model, network.example_inputs)[0]
    code = (
        "import sys, numpy, torch; from pathlib import Path; from compress import artifact\n"
        "torch.set_num_threads(1)\n"
        "network = artifact.load(Path(sys.argv[1]))\n"
        "numpy.save(sys.argv[2], artifact.outputs_of(network.model, network.example_inputs)[0].numpy())\n"
        "assert not any(name.startswith('pickle') and 'loads' in name for name in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a"), str(tmp_path / "out.npy")], check=True)
    assert np.array_equal(np.load(tmp_path / "out.npy"), expected.numpy())
    assert np.array_equal(artifact.expected_outputs(tmp_path / "a")[0].numpy(), expected.numpy())


def test_everything_comes_back(network: Network, tmp_path: Path) -> None:
    artifact.save(network, tmp_path / "a", metrics={"top1": 91.5})
    again = artifact.load(tmp_path / "a")
    assert (again.edits, again.lineage, dict(again.encodings)) == (
        network.edits,
        network.lineage,
        dict(network.encodings),
    )
    assert again.source == network.source and type(again.model).__name__ == "SmallNet"
    assert again.model.conv.out_channels == 4 and isinstance(again.model.bn, nn.Identity)
    assert artifact.read_manifest(tmp_path / "a")["metrics"] == {"top1": 91.5}
    assert artifact.weights_digest(again.model) == artifact.weights_digest(network.model)


def test_no_pickle_inside(network: Network, tmp_path: Path) -> None:
    artifact.save(network, tmp_path / "a")
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == ["expected.npz", "inputs.npz", "manifest.json", "weights.safetensors"]
    for path in (tmp_path / "a").glob("*.npz"):
        np.load(path, allow_pickle=False)


@pytest.mark.parametrize("name", ["weights.safetensors", "inputs.npz", "expected.npz", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_damaged_artifact_is_refused(network: Network, tmp_path: Path, name: str, damage: str) -> None:
    artifact.save(network, tmp_path / "a")
    path = tmp_path / "a" / name
    content = bytearray(path.read_bytes())
    if damage == "flip":
        place = content.index(b"conv") if name == "manifest.json" else len(content) // 2
        content[place] ^= 1
        path.write_bytes(content)
    elif damage == "truncate":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.unlink()
    with pytest.raises(InvalidInput, match=r"artifact .*"):
        artifact.load(tmp_path / "a")


def test_another_schema_version_is_refused(network: Network, tmp_path: Path) -> None:
    artifact.save(network, tmp_path / "a")
    path = tmp_path / "a" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 99}))
    with pytest.raises(InvalidInput, match="schema version 99"):
        artifact.load(tmp_path / "a")


def test_a_changed_source_that_computes_something_else_is_refused(
    network: Network, small_net_file: Path, tmp_path: Path
) -> None:
    artifact.save(network, tmp_path / "a")
    source = small_net_file.read_text()
    small_net_file.write_text(source + "\n# a comment changes nothing\n")
    artifact.load(tmp_path / "a")
    small_net_file.write_text(source.replace("torch.relu", "torch.tanh"))
    with pytest.raises(InvalidInput, match="computes something else"):
        artifact.load(tmp_path / "a")
    small_net_file.write_text(source.replace("nn.Linear(width, 10)", "nn.Linear(width, 11)"))
    with pytest.raises(InvalidInput, match=r"source has changed|no longer builds"):
        artifact.load(tmp_path / "a")


def test_an_existing_output_stays_unless_overwritten(network: Network, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "mine.txt").write_text("keep")
    with pytest.raises(InvalidInput, match="--overwrite"):
        artifact.save(network, tmp_path / "a")
    assert (tmp_path / "a" / "mine.txt").read_text() == "keep"
    artifact.save(network, tmp_path / "a", overwrite=True)
    assert artifact.is_artifact(tmp_path / "a")


def test_a_failure_leaves_nothing(network: Network, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), outputs.new_folder(tmp_path / "a") as folder:
        artifact.write(network, folder)
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["net.py"]


def test_edits_of_tied_tensors_keep_them_tied() -> None:
    model = nn.ModuleDict({"a": nn.Linear(4, 6, bias=False), "b": nn.Linear(4, 6, bias=False)})
    model["b"].weight = model["a"].weight
    original = model["a"].weight.detach().clone()
    replay(
        model,
        [
            Edit("a", "weight", (6, 4), (2, 4), "tensor", 0, (1, 5)),
            Edit("a", "weight", (2, 4), (2, 3), "tensor", 1, (0, 1, 3)),
        ],
    )
    assert model["b"].weight is model["a"].weight
    assert torch.equal(model["a"].weight, original[[1, 5]][:, [0, 1, 3]])


def test_edits_of_another_network_are_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 6))
    with pytest.raises(InvalidInput, match="no such layer"):
        replay(model, [Edit("gone", "in_features", 4, 2)])
    with pytest.raises(InvalidInput, match=r"expected a tensor of shape \(9, 4\), got \(6, 4\)"):
        replay(model, [Edit("0", "weight", (9, 4), (2, 4), "tensor", 0, (0, 1))])
