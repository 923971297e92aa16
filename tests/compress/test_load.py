from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from compress.pipeline import open_network
from compress.siblings import ROOT, sibling
from compress.sources.load import build
from compress.sources.specification import parse, parse_shape, zoo_names


def test_the_zoo_is_known_by_name() -> None:
    assert "resnet20" in zoo_names()
    model, source = build(parse("resnet20:width=4"), {"num_classes": 7, "width": 99})
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 7)
    assert dict(source.options) == {"num_classes": 7, "width": 4}


def test_a_file_with_options(small_net_file: Path) -> None:
    model, source = build(parse(f"{small_net_file}:build:width=5"))
    assert model.conv.out_channels == 5 and not model.training  # type: ignore[union-attr]
    assert source.kind == "file" and len(source.sha256) == 64


def test_a_file_is_read_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where Python keeps what it compiles, and a file changes to another of its size within one second."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    file = tmp_path / "net.py"
    for width in (3, 4):
        file.write_text(f"from torch import nn\n\n\ndef build():\n    return nn.Linear(2, {width})\n")
        os.utime(file, (1, 1))
        assert build(parse(f"{file}:build"))[0].out_features == width
    assert list(tmp_path.iterdir()) == [file]


def test_a_module_from_the_working_folder(small_net_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (small_net_file.parent / "mypackage").mkdir()
    (small_net_file.parent / "mypackage" / "__init__.py").touch()
    small_net_file.rename(small_net_file.parent / "mypackage" / "nets.py")
    monkeypatch.chdir(small_net_file.parent)
    model, _ = build(parse("mypackage.nets:build"))
    assert type(model).__name__ == "SmallNet"


@pytest.mark.parametrize(
    ("text", "shape"),
    [("3,32,32", (1, 3, 32, 32)), ("2,3,32,32", (2, 3, 32, 32)), ("3x8x8", (1, 3, 8, 8)), ("1,10", (1, 10))],
)
def test_input_shapes(text: str, shape: tuple[int, ...]) -> None:
    assert parse_shape(text) == shape


@pytest.fixture
def users_project(tmp_path: Path) -> Path:
    """A project whose own folders and files have the names of our packages."""
    files = {
        "models/__init__.py": "NAME = 'the user'\n",
        "models/blocks.py": """
            from torch import nn

            def block(n):
                return nn.Sequential(nn.Conv2d(1, n, 3), nn.ReLU())
        """,
        "export.py": "MARK = 'the export of the user'\n",
        "runtimes.py": "MARK = 'the runtimes of the user'\n",
        "net.py": """
            import torch
            from torch import nn
            import export
            import models
            from models.blocks import block

            assert export.MARK and models.NAME == 'the user'

            class Net(nn.Module):
                def __init__(self, width=4):
                    super().__init__()
                    self.features = block(width)
                    self.fc = nn.Linear(width, 10)

                def forward(self, x):
                    return self.fc(self.features(x).mean((2, 3)))

            def build(width=4):
                torch.manual_seed(0)
                return Net(width)
        """,
    }
    for name, text in files.items():
        path = tmp_path / "project" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    return tmp_path / "project"


def test_a_project_with_its_own_models_and_export_from_the_command_line(users_project: Path) -> None:
    """The zoo, our exporter and the user's network meet in one process, started in the user's folder."""
    script = (
        "import sys; from compress.cli import main\n"
        "sys.argv = ['compress', 'export', 'net.py:build', '--input-shape', '1,8,8', '-o', 'out.onnx']\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=users_project, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (users_project / "out.onnx").stat().st_size > 0


def test_a_script_in_a_project_with_its_own_models_and_export(users_project: Path) -> None:
    """`import models` is the user's before, between and after; ours are found beside them."""
    (users_project / "script.py").write_text(
        textwrap.dedent("""
        import export, models
        import torch
        from pathlib import Path
        from compress import Context, Fold, Prune
        from compress.sources.load import Network, build
        from compress.sources.specification import Source, parse
        from compress import deploy
        from net import build as mine

        x = torch.zeros(2, 1, 8, 8)
        net = mine(width=16)
        pruned = Prune(ratio=0.5).apply(net, Context(example_inputs=(x,))).model
        assert type(pruned) is type(net) and pruned.features[0].out_channels == 8
        zoo, _ = build(parse("resnet20:width=4"))
        network = Network(pruned, Source("zoo", "x"), example_inputs=(x,))
        record, _ = deploy.export(network, "pruned", Path("pruned.onnx"))
        assert record.size_bytes > 0
        assert models.NAME == "the user" and export.MARK == "the export of the user"
        import models as again
        assert again.NAME == "the user"
        """)
    )
    done = subprocess.run([sys.executable, "script.py"], cwd=users_project, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_loading_a_users_network_leaves_our_packages_in_place(users_project: Path) -> None:
    ours = sibling("models")
    model, _ = build(parse(f"{users_project}/net.py:build"))
    assert sibling("models") is ours and sys.modules["models"] is ours
    assert model(torch.zeros(1, 1, 8, 8)).shape == (1, 10)
    assert str(users_project) not in sys.path


@pytest.mark.parametrize(("side", "small"), [(32, True), (224, False)])
def test_a_zoo_network_has_the_form_for_its_images(side: int, small: bool) -> None:
    model, source = build(parse("mobilenet_v2:width=0.25"), None, (1, 3, side, side))
    assert source.options.get("small_images", True) is small
    with torch.no_grad():
        stem = model.stem(torch.zeros(1, 3, side, side))  # type: ignore[operator]
    assert stem.shape[-1] == (side if small else side // 2)
    chosen, _ = build(parse("mobilenet_v2:width=0.25,small_images=True"), None, (1, 3, 224, 224))
    assert chosen.stem[0].stride == (1, 1)  # type: ignore[index]


def test_our_packages_are_reached_beside_those_of_the_user(users_project: Path) -> None:
    code = (
        "from compress.siblings import export, models, runtimes\n"
        "import sys, models as theirs\n"
        "assert 'resnet20' in models.names() and not hasattr(theirs, 'names')\n"
        "assert 'onnx' in export.facts.formats()\n"
        "assert export.onnx.edits.rewrite.__name__.endswith('export.onnx.edits.rewrite')\n"
        "assert runtimes.sensors.conditions is runtimes.sensors.conditions\n"
        "try:\n    runtimes.nothing\nexcept AttributeError:\n    print('good')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=users_project,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "good\n", done.stderr


@pytest.mark.parametrize(
    ("words", "shape"),
    [
        ("resnet20", (1, 3, 32, 32)),
        ("resnet18:width=4,small_images=False", (1, 3, 224, 224)),
        ("vit_tiny:width=0.3,in_channels=1,image_size=16", (1, 1, 16, 16)),
    ],
)
def test_a_zoo_network_knows_what_it_takes(words: str, shape: tuple[int, ...]) -> None:
    assert [tuple(x.shape) for x in open_network(words).example_inputs] == [shape]


def test_a_given_shape_comes_before_the_one_that_is_known() -> None:
    network = open_network("resnet20:width=4", input_shapes=((2, 3, 24, 24),))
    assert [tuple(x.shape) for x in network.example_inputs] == [(2, 3, 24, 24)]
