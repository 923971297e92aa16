"""Keys of encodings: what they are called, that another trace gives them back, and what an artifact does with them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from compress.errors import InvalidInput
from compress.graph.trace import Graph, trace
from compress.integers import keys
from compress.quantize import Quantize
from compress.sources import artifact
from compress.sources.load import Network, build
from compress.sources.specification import Source
from tests.support.small_networks import SHAPES, context_on, made


class Repeated(nn.Module):
    """A module that is called twice, sums in code, an activation that is decomposed, and a parameter as a value."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.act = nn.ReLU()
        self.swish = nn.Hardswish()
        self.drop = nn.Dropout()
        self.tokens = nn.Parameter(torch.randn(4, 8))
        self.mix = nn.Linear(8, 8)

    def forward(self, image: Tensor) -> Tensor:
        x = self.act(self.conv(image) + image)
        x = self.swish(self.drop(self.conv(self.act(x + image))))
        return x.mean() + self.mix(self.tokens)


class Sums(nn.Module):
    """One layer and one sum, or the difference that ``other`` makes of it."""

    def __init__(self, *, other: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.other = other

    def forward(self, image: Tensor) -> Tensor:
        x: Tensor = torch.relu(self.conv(image))
        return x + (image if self.other else x)


def renamed(graph: Graph) -> Graph:
    """The graph as another version of torch might name its nodes."""
    for number, node in enumerate(graph.nodes):
        if node.op == "call_function":
            node.name = f"other_{number}"
    return graph


def test_names() -> None:
    graph = trace(Repeated().eval(), (torch.randn(2, 3, 8, 8),), dynamic_batch=True)
    named = list(keys.keys_of(graph).values())
    for name in (
        "conv:output",
        "conv:output.2",
        ":add",
        ":add.2",
        "act:output",
        "act:output.2",
        "swish:output",
        ":input",
    ):
        assert named.count(name) == 1, name
    assert "tokens:value" in named and not any("dropout" in name for name in named)
    assert len(set(named)) == len(named)


@pytest.mark.parametrize("kind", [*SHAPES, Repeated])
def test_another_trace_gives_the_encodings_back(kind: type[nn.Module]) -> None:
    if kind is Repeated:
        inputs: tuple[Tensor, ...] = (torch.randn(2, 3, 8, 8),)
        model: nn.Module = Repeated().eval()
        context = context_on(inputs)
    else:
        model, inputs, context = made(kind)
    result = Quantize(ranges={"samples": 8}).apply(model, context)
    first, second = (trace(result.model, context.example_inputs, dynamic_batch=True) for _ in range(2))
    keyed = keys.with_keys(first, result.encodings)
    assert list(keyed.values()) == list(result.encodings.values())
    assert all(":" in name for name in keyed if name not in dict(result.model.named_parameters()))
    assert keys.with_nodes(second, keyed) == dict(result.encodings)
    other = renamed(second)
    assert keys.digest_of(other) == keys.digest_of(first)
    back = keys.with_nodes(other, keyed)
    assert list(back.values()) == list(result.encodings.values())
    assert all(
        name.startswith(("other_", "image", "vector", "tokens", "p_")) for name in set(back) - set(result.encodings)
    )


def test_a_batch_of_another_size_has_the_same_keys_and_another_structure_another_digest() -> None:
    model = Sums().eval()
    traces = [trace(model, (torch.randn(n, 3, 4, 4),), dynamic_batch=dynamic) for n, dynamic in ((1, False), (5, True))]
    assert len({keys.digest_of(graph) for graph in traces}) == 1
    assert keys.digest_of(trace(Sums(other=True).eval(), (torch.randn(1, 3, 4, 4),))) != keys.digest_of(traces[0])


def test_encodings_of_another_network_are_refused() -> None:
    model, _, context = made(next(iter(SHAPES)))
    encodings = Quantize(ranges={"samples": 8}).apply(model, context).encodings
    graph = trace(Sums().eval(), (torch.randn(1, 3, 4, 4),))
    with pytest.raises(InvalidInput, match="is no tensor of this network"):
        keys.with_keys(graph, encodings)


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, Network]:
    source = Source("zoo", "mobilenet_v3_small", options={"num_classes": 3})
    model, source = build(source)
    inputs = (torch.randn(2, 3, 32, 32),)
    result = Quantize(ranges={"samples": 4}).apply(model, context_on(inputs))
    edits = tuple(edit for edit in result.edits if edit.kind not in ("precision", "weights"))
    network = Network(result.model, source, edits, (), result.encodings, inputs)
    artifact.save(network, tmp_path / "a")
    return tmp_path / "a", network


def change(folder: Path, **fields: object) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest = {**manifest, **fields}
    manifest = {name: value for name, value in manifest.items() if value is not None and name != "digest"}
    manifest["digest"] = artifact._digest(artifact._canonical(manifest))
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_an_artifact_holds_keys_and_gives_names_of_nodes(saved: tuple[Path, Network]) -> None:
    folder, network = saved
    stored = artifact.read_manifest(folder)["encodings"]
    assert "features.0.0:output" in stored or any(name.endswith(":output") for name in stored)
    assert artifact.load(folder).encodings == dict(network.encodings)
    change(folder, torch="1.0")  # what the keys are of is still there
    assert artifact.load(folder).encodings == dict(network.encodings)


def test_what_another_torch_traces_otherwise_is_refused_in_one_line(saved: tuple[Path, Network]) -> None:
    folder, _ = saved
    change(folder, torch="1.0", graph="0" * 64)
    with pytest.raises(
        InvalidInput, match=r"torch \S+ traces other operations than torch 1\.0 did.*quantize again"
    ) as told:
        artifact.load(folder)
    assert "\n" not in str(told.value)


def test_artifacts_from_before_keys_are_read_under_their_own_torch_alone(saved: tuple[Path, Network]) -> None:
    folder, network = saved
    old = {name: encoding.to_json() for name, encoding in network.encodings.items()}
    change(folder, encodings=old, graph=None)
    assert artifact.load(folder).encodings == dict(network.encodings)
    change(folder, torch="1.0")
    with pytest.raises(InvalidInput, match=r"named as torch 1\.0 traced the network.*quantize again"):
        artifact.load(folder)
    weights = {name: encoding for name, encoding in old.items() if name in dict(network.model.named_parameters())}
    change(folder, encodings=weights)
    assert set(artifact.load(folder).encodings) == set(weights)
