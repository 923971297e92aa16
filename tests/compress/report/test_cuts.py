"""What pruning took where: from edits to rows, on the page and in the terminal, for short and long networks."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import models
from compress.cost.count import cost
from compress.pipeline import layers as layer_records
from compress.prune import Prune, RemoveBlocks
from compress.report import EditRecord, Report, SkipRecord, StageRecord, render
from compress.report.sections.cuts import LayerCut, folded, shares, stage_cuts, title
from compress.report.sections.findings import skip_groups
from compress.sources.load import Network
from compress.sources.specification import Source
from compress.stage import Context, Edit
from tests.support.report_text import outline, printed, spaces

IMAGE = torch.zeros(1, 3, 16, 16)


def record(name: str, edits: tuple[Edit, ...]) -> StageRecord:
    return StageRecord(name=name, edits=tuple(EditRecord.model_validate(vars(edit)) for edit in edits))


def test_rows_of_two_stages_agree_with_the_networks(filled: dict[str, Any]) -> None:
    """Channels and multiply-adds of every layer are those that are counted on the networks themselves."""
    torch.manual_seed(0)
    model = models.build("resnet20", width=8, num_classes=4).eval()
    smaller = Prune(ratio=0.5, round_to=1).apply(model, Context((IMAGE,)))
    shorter = RemoveBlocks(count=1).apply(smaller.model, Context((IMAGE,)))
    before = layer_records(Network(model, Source("zoo", "resnet20"), example_inputs=(IMAGE,)))
    stages = (record("prune", smaller.edits), record("train", ()), record("remove_blocks", shorter.edits))
    report = Report.model_validate(filled | {"stages": stages, "layers": {"before": before}})
    found = stage_cuts(report)
    assert sorted(found) == [0, 2]
    for index, network in ((0, smaller.model), (2, shorter.model)):
        counted = {layer.layer: layer.macs for layer in cost(network, (IMAGE,)).layers if layer.macs}
        assert {cut.layer: cut.macs_after for cut in found[index] if cut.after} == counted
        for cut in found[index]:
            weight = getattr(network.get_submodule(cut.layer) if cut.after else None, "weight", None)
            assert cut.after == (0 if weight is None else len(weight))
    order = [layer.layer for layer in before if layer.macs]
    assert [cut.layer for cut in found[0]] == order == [cut.layer for cut in found[2]]
    assert [cut.before for cut in found[2]] == [cut.after for cut in found[0]]
    (gone,) = (edit.layer for edit in shorter.edits if edit.kind == "module")
    assert {cut.layer.startswith(f"{gone}.") for cut in found[2] if not cut.after} == {True}
    for side in (0, 1):
        assert sum(of[side] or 0 for of in shares(found[2])) == pytest.approx(1)


def test_edits_without_costs_are_enough(filled: dict[str, Any]) -> None:
    stage = {"name": "prune", "edits": [
        {"layer": "a", "what": "out_channels", "before": 64, "after": 48},
        {"layer": "a", "what": "num_features", "before": 64, "after": 48},
        {"layer": "a", "what": "out_channels", "before": 48, "after": 40},
        {"layer": "b", "what": "out_features", "before": 10, "after": 10},
    ]}  # fmt: skip
    report = Report.model_validate(filled | {"stages": [stage], "layers": {}})
    assert stage_cuts(report) == {0: (LayerCut("a", 64, 40), LayerCut("b", 10, 10))}
    assert shares(stage_cuts(report)[0]) == [(None, None)] * 2


@pytest.mark.parametrize("shape", [((16,), 3), (16, (3,)), (-1, 3), (16, 2**80), "16", (True, 3), None, (1,) * 9])
def test_edits_whose_shapes_are_none_change_nothing(filled: dict[str, Any], shape: object) -> None:
    spoilt = record("prune", (Edit("conv1", "weight", shape, shape, "tensor"), Edit("conv1", "out_channels", shape, 3)))
    report = Report.model_validate({**filled, "stages": (spoilt,)})
    assert all(cut.after == cut.before for cuts in stage_cuts(report).values() for cut in cuts)


def test_titles() -> None:
    a, b, c = LayerCut("a", 8, 4), LayerCut("b", 10, 9), LayerCut("c", 6, 6)
    assert title((a, b, c)) == "5 of 24 channels went, from 2 of 3\u00a0layers; a lost the most, 50\u00a0%"
    assert title((a, c)) == "4 of 14 channels went, from 1 of 2\u00a0layers; it lost 50\u00a0%"
    assert title((a, LayerCut("d", 2, 1))).endswith("; each lost 50\u00a0%")
    assert title((LayerCut("a", 8, 0), b)).endswith("from 2 of 2\u00a0layers, 1 of which is gone")


def test_neighbours_fold_by_their_names() -> None:
    rows = [LayerCut(f"layer{i}.{j}.conv", 8, 4, 10, 5) for i in range(3) for j in range(4)]
    assert folded(rows, 12) == tuple(rows)
    stem = LayerCut("stem", 3, 3)
    assert folded([stem, *rows], 12) == (stem, *(LayerCut(f"layer{i}", 32, 16, 40, 20, 4) for i in range(3)))
    assert folded([stem, LayerCut("layer0.0.conv", 1, 1)], 1)[0] is stem
    assert folded([], 3) == ()


def test_reasons_are_grouped_whatever_number_of_channels_they_hold_for() -> None:
    skipped = [
        SkipRecord(layer="fc", reason="its outputs are the outputs of the network"),
        SkipRecord(layer="a", reason="3 of 8 channels: excluded"),
        SkipRecord(layer="b", reason="excluded"),
        SkipRecord(layer="c", reason="8 channels stay where 3.2 are wanted: excluded"),
        SkipRecord(layer="", reason="3.2 times fewer, where 3 were asked for"),
    ]
    found = {group.what: group.layers for group in skip_groups(skipped)}
    assert next(iter(found)) == "excluded"
    assert found["excluded"] == ("a (3 of 8 channels)", "b", "c (8 channels stay where 3.2 are wanted)")
    assert found["3.2 times fewer, where 3 were asked for"] == ("the network",)


def test_page_and_terminal_tell_what_was_cut_where_and_why_the_rest_was_not(report: Report) -> None:
    found = outline(render(report))
    text, in_terminal = spaces(found.text), printed(report)
    for shown in (text, spaces(in_terminal)):
        assert "688 of 1,386 channels went, from 19 of 20 layers; each lost 50 %" in shown
        assert "Why the rest was not cut" in shown
    assert "its outputs are the outputs of the network 1 fc" in text
    rows = [" ".join(line.split()) for line in in_terminal.splitlines() if "░" in line and "→" in line]
    assert rows == [
        f"{cut.layer} {cut.before} → {cut.after} {'█' * (cut.after * 24 // 128)}{'░' * (cut.after * 24 // 128)} 50 %"
        for cut in next(iter(stage_cuts(report).values()))
        if cut.after < cut.before
    ]
    assert len(rows) == 19 and rows[-1].startswith("layer3.2.conv2 128 → 64 ")
    labels = [value for tag, name, value in found.attributes if tag == "svg" and name == "aria-label"]
    assert "conv1: 32 channels before, 16 after" in labels
    assert "prune: channels" not in " ".join(v for t, n, v in found.attributes if t == "div" and n == "aria-label")


def test_long_networks_scroll_on_the_page_and_fold_in_the_terminal(filled: dict[str, Any]) -> None:
    names = [f"blocks.{i}.conv{j}" for i in range(200) for j in range(2)]
    filled["stages"] = [{
        "name": "prune",
        "edits": [{"layer": n, "what": "out_channels", "before": 64, "after": 64 - i % 9} for i, n in enumerate(names)],
        "skipped": [{"layer": f"heads.{i}", "reason": "its channels are counted"} for i in range(150)],
    }]  # fmt: skip
    filled["layers"] = {}
    report = Report.model_validate(filled)
    page = render(report)
    found = outline(page)
    scrolled = [value for tag, name, value in found.attributes if tag == "div" and name == "aria-label"]
    assert scrolled == ["prune: channels of 300 layers before and after"]
    text = spaces(found.text)
    assert "100 layers that lost less or nothing are not shown." in text
    assert "heads.0, heads.1, heads.2 and 147 more" in text
    assert "blocks.4.conv0: 64 channels before, 56 after" in text, "what lost most is shown"
    assert len(page.encode()) < 500_000
    in_terminal = printed(report)
    assert "blocks (400 layers)" in in_terminal and "heads.0, heads.1, heads.2 and 147 more" in in_terminal
    assert len(in_terminal.splitlines()) < 80
