"""The scan of each group alone, its file, its use, and its figure."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from pydantic import ValidationError
from torch import nn

from compress.cli import cli
from compress.data import Data
from compress.data.split import Slice
from compress.errors import InvalidInput
from compress.prune import Prune
from compress.prune.sensitivity import Scan, Sensitivity
from compress.report.figures.heat_map import heat_map
from compress.stage import Context
from compress.tasks.built_in.classification import top1


class Sorter(nn.Module):
    """Brightness of the four quadrants: two layers of which one hardly matters."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.copies = nn.Conv2d(1, 8, 1)
        self.idle = nn.Conv2d(8, 8, 1)
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.fc = nn.Linear(32, 3)
        with torch.no_grad():
            self.copies.weight.fill_(0.5).add_(torch.linspace(0, 0.01, 8).view(8, 1, 1, 1))
            self.copies.bias.zero_()  # type: ignore[union-attr]
            self.idle.weight.mul_(1e-3)
            self.idle.bias.zero_()  # type: ignore[union-attr]
            self.fc.weight.copy_(torch.eye(4)[:3].repeat(1, 8))
            self.fc.bias.zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.copies(x) + 4)
        x = x.mean(1, keepdim=True) + self.idle(x)
        y: torch.Tensor = self.fc(self.pool(x).flatten(1))
        return y


def context(data: Data) -> Context:
    return Context((data.example(),), data)


def test_the_scan_tells_what_pruning_each_group_alone_costs(data: Data, small_net: nn.Module) -> None:
    before = {name: tensor.clone() for name, tensor in small_net.state_dict().items()}
    found = Scan(ratios=(0.25, 0.5), samples=20).measure(small_net, context(data))
    assert all(torch.equal(before[name], tensor) for name, tensor in small_net.state_dict().items())
    split = Slice(data.splits["validation"], 20)
    assert found.samples == 20 and found.score.value == (whole := top1(small_net, split))
    (group,) = found.groups
    assert group.layers == ("conv1", "conv2") and group.width == 8 and group.removed == (0.25, 0.5)
    for ratio, loss in zip(group.removed, group.losses, strict=True):
        pruned = Prune(ratio=ratio, criterion="l2", round_to=1).apply(small_net, context(data)).model
        assert loss == whole - top1(pruned, split)
    assert [layer for layer, _ in found.skipped] == ["fc"]


def test_the_test_split_is_not_read(data: Data, small_net: nn.Module) -> None:
    splits = {name: split for name, split in data.splits.items() if name == "validation"}
    Scan(ratios=(0.5,)).measure(small_net, context(replace(data, splits=splits)))  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="no validation samples"):
        Scan().measure(small_net, context(replace(data, splits={"test": data.splits["test"]})))
    with pytest.raises(InvalidInput, match="it needs data to measure a score on"):
        Scan().measure(small_net, Context((data.example(),)))


def test_a_slice_is_the_first_samples(data: Data) -> None:
    split = data.splits["validation"]
    whole = torch.cat([x for x, _ in split.batches(64)])
    part = list(Slice(split, 10).batches(4))
    assert [len(x) for x, _ in part] == [4, 4, 2] and torch.equal(torch.cat([x for x, _ in part]), whole[:10])
    assert len(Slice(split, 10**6)) == len(split)


def test_the_group_that_costs_nothing_goes_first(data: Data) -> None:
    model = Sorter().eval()
    scanned = Scan(ratios=(0.5, 0.75), exclude=()).measure(model, context(data))
    assert {group.layers for group in scanned.groups} == {("copies",), ("idle",)}
    pruned = Prune(macs=1.3, select="sensitivity", round_to=1).apply(model, context(data))
    kept = {edit.layer: edit.after for edit in pruned.edits if edit.what == "out_channels"}
    assert kept["idle"] < 8 and kept["idle"] <= kept.get("copies", 8)  # type: ignore[operator]


def test_a_file_is_what_the_stage_scans_itself(data: Data, small_net: nn.Module, tmp_path: Path) -> None:
    file = tmp_path / "sensitivity.json"
    file.write_text(Scan(criterion="l2").measure(small_net, context(data)).model_dump_json())
    options = {"macs": 2.0, "criterion": "l2", "select": "sensitivity", "round_to": 1, "repair": ()}
    filed = Prune.model_validate({**options, "select": {"sensitivity": tmp_path}})
    by_file = filed.apply(small_net, Context((data.example(),)))
    assert by_file.edits == Prune.model_validate(options).apply(small_net, context(data)).edits
    kept = tmp_path / "checkpoints"
    kept.mkdir()
    resumed = replace(context(data), checkpoints=str(kept))
    Prune.model_validate(options).apply(small_net, resumed)
    assert Sensitivity.read(kept / "prune-sensitivity.json") == Sensitivity.read(file)


def test_files_that_do_not_fit(data: Data, small_net: nn.Module, tmp_path: Path) -> None:
    stage = Prune(macs=2.0, select={"sensitivity": {"file": tmp_path / "s.json"}})
    with pytest.raises(InvalidInput, match=r"s\.json: no such file.*compress sensitivity"):
        stage.apply(small_net, context(data))
    (tmp_path / "s.json").write_text('{"top1": 3}')
    with pytest.raises(InvalidInput, match=r"s\.json: not what compress sensitivity writes"):
        stage.apply(small_net, context(data))
    scanned = Scan().measure(small_net, context(data))
    wide = scanned.groups[0].model_copy(update={"width": 99})
    (tmp_path / "s.json").write_text(scanned.model_copy(update={"groups": (wide,)}).model_dump_json())
    with pytest.raises(InvalidInput, match="conv1 had 99 channels when it was scanned and has 8"):
        stage.apply(small_net, context(data))
    (tmp_path / "s.json").write_text(scanned.model_copy(update={"groups": ()}).model_dump_json())
    with pytest.raises(InvalidInput, match="the scan has no layer of this network"):
        stage.apply(small_net, context(data))
    with pytest.raises(ValidationError, match=r"layer\.file: no such key"):
        Prune(macs=2.0, select={"layer": {"file": tmp_path}})
    for ratios in ((), (0.5, 0.25), (0.5, 1.0), (0.0, 0.5)):
        with pytest.raises(ValidationError, match=r"expected ascending shares between 0 and 1|than [01]"):
            Scan(ratios=ratios)


def test_the_figure_escapes_names_and_leaves_gaps() -> None:
    figure = heat_map([("<a> & b", [0.0, None]), ("c", [12.34, -1.0])], ["-25%", "-50%"], "title", "note", 12.34)
    assert "&lt;a&gt; &amp; b" in figure and "12.3" in figure and figure.count("<rect") == 1 + 3
    assert heat_map([("a", [0.0])], ["-25%"], "t", "n", 0.0).startswith("<svg")


def test_the_command_writes_both_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_net_file: Path, npz: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["sensitivity", "net.py:build", "--data", str(npz), "--ratios", "0.5", "--samples", "8", "-o", "s"]
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in Path("s").iterdir()) == ["sensitivity.json", "sensitivity.svg"]
    assert "conv" in result.output and Sensitivity.read(Path("s")).samples == 8
    again = CliRunner().invoke(cli, words)
    assert again.exit_code != 0 and isinstance(again.exception, InvalidInput)
    bad = CliRunner().invoke(cli, [*words[:-2], "-o", "t", "--ratios", "half"])
    assert "expected shares with commas" in str(bad.exception)
    line = "prune net.py:build --input-shape 1,8,8 --macs 1.5 --select sensitivity=s --round-to 1 -o p"
    pruned = CliRunner().invoke(cli, [*line.split(), "--limit", "conv=0.9"])
    assert pruned.exit_code == 0, pruned.output
    for limit in ("conv", "conv=much"):
        refused = CliRunner().invoke(cli, ["prune", "net.py:build", "--ratio", "0.5", "--limit", limit, "-o", "q"])
        assert f"--limit {limit}: expected pattern=share" in str(refused.exception)
