from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from compress.edits import replay
from compress.errors import InvalidInput
from compress.files import outputs
from compress.integers.encoding import Encoding
from compress.pipeline import open_network
from compress.sources import artifact
from compress.sources.load import Network, build
from compress.sources.specification import Source
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
        "import sys, numpy, torch; from pathlib import Path; from compress.sources import artifact\n"
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
    assert again.model.conv.out_channels == 4 and isinstance(again.model.bn, nn.Identity)  # type: ignore[union-attr]
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
    original = model["a"].weight.detach().clone()  # type: ignore[operator]
    replay(
        model,
        [
            Edit("a", "weight", (6, 4), (2, 4), "tensor", 0, (1, 5)),
            Edit("a", "weight", (2, 4), (2, 3), "tensor", 1, (0, 1, 3)),
        ],
    )
    assert model["b"].weight is model["a"].weight
    assert torch.equal(model["a"].weight, original[[1, 5]][:, [0, 1, 3]])  # type: ignore[arg-type]


def test_edits_of_another_network_are_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 6))
    with pytest.raises(InvalidInput, match="no such layer"):
        replay(model, [Edit("gone", "in_features", 4, 2)])
    with pytest.raises(InvalidInput, match=r"expected a tensor of shape \(9, 4\), got \(6, 4\)"):
        replay(model, [Edit("0", "weight", (9, 4), (2, 4), "tensor", 0, (0, 1))])


def written_onnx(folder: Path, *, external: bool) -> Path:
    """A file of two linear layers, and its weights beside it where they are external."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    generator = np.random.default_rng(0)
    weights = [generator.standard_normal(shape).astype(np.float32) for shape in ((64, 12), (12, 4))]
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "a"], ["h"]),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("MatMul", ["r", "b"], ["y"]),
        ],
        "two",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(weight, name) for weight, name in zip(weights, "ab", strict=True)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    folder.mkdir()
    path = folder / "net.onnx"
    onnx.save_model(model, str(path), save_as_external_data=external, location="net.bin", size_threshold=0)
    return path


@pytest.mark.parametrize("external", [False, True], ids=["within", "beside"])
def test_an_onnx_source_is_stored_whole(tmp_path: Path, external: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written_onnx(tmp_path / "given", external=external)
    assert (tmp_path / "given" / "net.bin").exists() is external
    network = open_network(str(path))
    expected = artifact.outputs_of(network.model, network.example_inputs)[0]
    artifact.save(network, tmp_path / "a")
    for file in (tmp_path / "given").iterdir():
        file.unlink()
    again = open_network(str(tmp_path / "a"))
    assert torch.equal(artifact.outputs_of(again.model, network.example_inputs)[0], expected)
    artifact.save(again, tmp_path / "b")  # and from one artifact to the next
    assert artifact.load(tmp_path / "b").source.sha256 == artifact._digest((tmp_path / "b/source.onnx").read_bytes())
    monkeypatch.setattr("compress.sources.onnx_import.reading.read._LARGEST_BYTES", 100)
    if external:  # as where the weights are too many for one file
        path = written_onnx(tmp_path / "large", external=True)
        artifact.save(open_network(str(path)), tmp_path / "c")
        assert (tmp_path / "c" / "source.onnx.data").stat().st_size == 4 * 64 * 12
        assert torch.equal(
            artifact.outputs_of(artifact.load(tmp_path / "c").model, network.example_inputs)[0], expected
        )


@pytest.mark.parametrize(("change", "says"), [("gone", "it is gone since"), ("changed", "it was changed since")])
def test_an_onnx_source_that_changes_under_work_is_told(tmp_path: Path, change: str, says: str) -> None:
    path = written_onnx(tmp_path / "given", external=False)
    network = open_network(str(path))
    path.unlink() if change == "gone" else path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(InvalidInput, match=says):
        artifact.save(network, tmp_path / "a")
    assert not (tmp_path / "a").exists()


UNSTEADY = {
    "another architecture": ("width = 4 if MARK.exists() else 6\n    MARK.touch()", "no longer builds"),
    "another function": ("width, Net.scale = 4, 2.0 if MARK.exists() else 1.0\n    MARK.touch()", "computes something"),
    "tied at first": ("width, Net.tied = 4, not MARK.exists()\n    MARK.touch()", "cannot be read back|other values"),
    "not any more": ("width = 4\n    if MARK.exists():\n        raise OSError('once')\n    MARK.touch()", "once"),
}


@pytest.mark.parametrize(("code", "says"), UNSTEADY.values(), ids=UNSTEADY)
def test_what_cannot_be_read_back_is_not_written(tmp_path: Path, code: str, says: str) -> None:
    (tmp_path / "net.py").write_text(
        "from pathlib import Path\nfrom torch import nn\n\n"
        f"MARK = Path({str(tmp_path / 'mark')!r})\n\n\n"
        "class Net(nn.Module):\n    scale = 1.0\n    tied = False\n\n"
        "    def __init__(self, width):\n        super().__init__()\n"
        "        self.a, self.b = nn.Linear(4, width), nn.Linear(4, width)\n"
        "        if self.tied:\n            self.b.weight = self.a.weight\n\n"
        "    def forward(self, x):\n        return (self.a(x) + self.b(x)) * self.scale\n\n\n"
        f"def build():\n    {code}\n    return Net(width)\n"
    )
    network = open_network(f"{tmp_path}/net.py:build", input_shapes=((2, 4),))
    with pytest.raises(InvalidInput, match=says) as raised:
        artifact.save(network, tmp_path / "a")
    assert "read back" in str(raised.value)
    assert ".partial" not in str(raised.value) and not (tmp_path / "a").exists()
    assert sorted(path.name for path in tmp_path.iterdir() if path.name[0] not in "._") == ["mark", "net.py"]


def test_what_the_source_imports_counts_too(tmp_path: Path) -> None:
    (tmp_path / "blocks.py").write_text("from torch import nn\n\n\nclass Act(nn.ReLU):\n    pass\n")
    (tmp_path / "net.py").write_text(
        "from torch import nn\nimport blocks\n\n\n"
        "def build():\n    return nn.Sequential(nn.Linear(3, 3), blocks.Act())\n"
    )
    network = open_network(f"{tmp_path}/net.py:build", input_shapes=((2, 3),))
    artifact.save(network, tmp_path / "a")
    del sys.modules["blocks"]
    (tmp_path / "blocks.py").write_text("from torch import nn\n\n\nclass Act(nn.Softplus):\n    '''Another one.'''\n")
    with pytest.raises(InvalidInput, match=r"net\.py, or what it imports or reads, changed"):
        artifact.load(tmp_path / "a")
    del sys.modules["blocks"]
    (tmp_path / "net.py").unlink()
    with pytest.raises(InvalidInput, match=r"its source .*net\.py is gone; put the file back"):
        artifact.load(tmp_path / "a")


class Random(nn.Module):
    """Random in evaluation, with outputs within outputs, one of them in bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> dict[str, object]:
        y = self.fc(x) + torch.rand(3)
        return {"y": y, "more": [y.bfloat16(), (y.sum(), None)], "count": torch.tensor(3)}


def test_outputs_of_every_form_are_kept(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(f"from {__name__} import Random\n\n\nclass Net(Random):\n    pass\n")
    network = open_network(f"{tmp_path}/net.py:Net", input_shapes=((2, 3),))
    artifact.save(network, tmp_path / "a")
    assert [tuple(t.shape) for t in artifact.expected_outputs(tmp_path / "a")] == [(2, 3), (2, 3), (), ()]
    assert torch.equal(artifact.load(tmp_path / "a").model.fc.weight, network.model.fc.weight)  # type: ignore[arg-type, union-attr]
    assert len(artifact.weights_digest(network.model.bfloat16())) == 64
