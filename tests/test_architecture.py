"""Imports point one way, and the command line starts without torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from compress.siblings import export, runtimes
from tests.support.import_graph import circles, import_graph

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("compress", "export", "runtimes", "models")
# Each package, and what its files may import.
ALLOWED = {"models": set(), "runtimes": set(), "export": {"compress", "runtimes"}, "compress": {"runtimes"}}
# The command line, the runner, what writes files and what opens networks see everything.
SEES_EVERYTHING = (
    "compress/cli/",
    "compress/deploy/",
    "compress/pipeline",
    "compress/sources/load.py",
    "compress/sources/specification.py",
    "compress/siblings.py",
    "compress/recipe.py",
)
STAGES = (
    "compress/distill/",
    "compress/fold.py",
    "compress/prune/",
    "compress/quantize/",
    "compress/share.py",
    "compress/sparsify/",
    "compress/substitute/",
    "compress/training/loop.py",
)
FACTS = {"cache", "facts", "processor"}
"""Of ``runtimes``, what stages may look at: where things are kept, what is known of engines and of this machine."""


def imported(path: Path) -> set[str]:
    """The top-level names that a file imports, by statement or as one of our packages beside it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.partition(".")[0])
        elif isinstance(node, ast.ImportFrom) and node.module == "siblings":
            names |= {alias.name for alias in node.names} & set(PACKAGES)
    return names


FILES = [path.relative_to(ROOT) for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_point_one_way(path: Path) -> None:
    package = path.parts[0]
    others = (imported(ROOT / path) & set(PACKAGES)) - {package}
    if not path.as_posix().startswith(SEES_EVERYTHING):
        assert others <= ALLOWED[package], f"{path} imports {others}"


@pytest.mark.parametrize("path", [p for p in FILES if p.parts[0] == "compress"], ids=str)
def test_packages_beside_compress_are_imported_in_one_way(path: Path) -> None:
    """A plain import would find a user's own ``models`` or ``export.py``."""
    plain = {
        name
        for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom) and not getattr(node, "level", 0)
        for name in ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""])
        if name.partition(".")[0] in ("export", "models", "runtimes")
    }
    assert not plain or path == Path("compress/siblings.py"), f"{path} imports {plain}; take it from .siblings"


@pytest.mark.parametrize("path", [p for p in FILES if p.as_posix().startswith(STAGES)], ids=str)
def test_stages_know_no_engine(path: Path) -> None:
    """They ask the clock of their context."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    assert "export" not in imported(ROOT / path)
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "runtimes"
    }
    assert used <= FACTS, f"{path} uses {used - FACTS} of runtimes"


def test_no_modules_import_each_other() -> None:
    """In a circle no part can be read, tested or moved alone. Imports within functions and for annotations count."""
    graph = import_graph(ROOT, PACKAGES)
    assert "compress.data" in graph["compress.stage"] and "export.facts" in graph["compress.deploy.write"]
    assert not circles(graph)


def test_a_circle_is_seen(tmp_path: Path) -> None:
    package = tmp_path / "ours"
    (package / "inner").mkdir(parents=True)
    texts = {
        "__init__.py": "",
        "a.py": "def f():\n    from . import b\n",
        "b.py": "from .inner import leaf\n",
        "inner/__init__.py": "from ..a import f\n",
        "inner/leaf.py": "",
    }
    for name, text in texts.items():
        (package / name).write_text(text)
    assert circles(import_graph(tmp_path, ("ours",))) == [["ours.a", "ours.b", "ours.inner"]]


def test_every_stage_is_seen_by_the_walk() -> None:
    assert all(any(path.as_posix().startswith(stage) for path in FILES) for stage in STAGES)


@pytest.mark.parametrize("path", [p for p in FILES if p.parts[0] == "runtimes"], ids=str)
def test_runtimes_need_no_torch(path: Path) -> None:
    assert not imported(ROOT / path) & {"torch", "compress", "export", "models"}


def test_every_package_is_seen_by_the_walk() -> None:
    assert {path.parts[0] for path in FILES} == set(PACKAGES)


@pytest.mark.parametrize("arguments", [["--help"], ["prune", "--help"], ["--version"]])
def test_help_imports_neither_torch_nor_onnx(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom compress.cli import cli\n"
        f"try:\n    cli.main({arguments!r})\nexcept SystemExit as end:\n    assert not end.code\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'numpy', 'pydantic', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr


def test_the_words_for_a_network_are_read_without_torch() -> None:
    code = "import sys, compress.sources.specification, compress.files.outputs; assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr


IN_VAIN = (
    *("prune nothing --ratio 0.5 -o OUT", "quantize none.onnx -o OUT", "export none.py:build -o OUT"),
    *("fold resnet20 -o compress", "distill resnet20 --teacher nothing -o OUT", "prune resnet20 --data none -o OUT"),
    *("train resnet20 --input-shape 3,a -o OUT", "share -o OUT", "run none.yaml -o OUT", "run -o OUT"),
    *("run recipes/demo.yaml -o compress", "check none", "pack none"),
)


@pytest.mark.parametrize("arguments", IN_VAIN)
def test_what_is_asked_in_vain_is_told_before_torch_is_imported(arguments: str, tmp_path: Path) -> None:
    words = [str(tmp_path / "out") if word == "OUT" else word for word in arguments.split()]
    code = (
        f"import sys\nfrom compress.cli import main\nsys.argv = {['compress', *words]!r}\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert end.code == 2, end.code\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1, done.stderr
    assert not list(tmp_path.iterdir())


def test_only_training_brings_the_compiler_of_torch() -> None:
    """It takes as long to import as torch itself."""
    code = (
        "import sys, compress.training.loop, compress.pipeline, compress.cli.session\n"
        "assert not {'torch._dynamo', 'lightning_fabric'} & set(sys.modules)\n"
        "compress.training.loop._fabric(compress.training.loop.Training(accelerator='cpu'))\n"
        "assert 'lightning_fabric' in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr


def names_of_engines() -> set[str]:
    """What engines, formats and targets are called, how the names of several begin, and suffixes of their files.

    Networks come in ONNX files, too: that suffix is not only one of engines.
    """
    names = {*runtimes.facts.engines(), *runtimes.facts.targets(), *export.facts.formats()}
    facts = [runtimes.facts.describe(engine) for engine in runtimes.facts.engines()]
    suffixes = {suffix for each in facts for suffix in (*each.suffixes, each.weights) if suffix}
    return names | {name.partition("-")[0] for name in names} | suffixes - {".onnx"}


ASKING = ("startswith", "endswith", "index", "get", "with_suffix", "removesuffix", "removeprefix")
"""Methods whose argument is what is asked for."""


def engine_tests(source: str) -> set[str]:
    """The names of engines, formats and targets that code compares with, or has a table by.

    The kind of a network's source, which "onnx" is too, is not meant.
    """
    constants: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        parts: list[ast.expr] = []
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            if not any(isinstance(side, ast.Attribute) and side.attr == "kind" for side in sides):
                parts = sides
        elif isinstance(node, ast.Dict):
            parts = [key for key in node.keys if key is not None]
        elif isinstance(node, ast.MatchValue):
            parts = [node.value]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            parts = node.args if node.func.attr in ASKING else []
        for part in parts:
            inner = part.elts if isinstance(part, ast.Tuple | ast.List | ast.Set) else [part]
            constants |= {
                each.value for each in inner if isinstance(each, ast.Constant) and isinstance(each.value, str)
            }
    return constants & names_of_engines()


def is_shared(path: Path) -> bool:
    """Whether a file belongs to no engine and no format."""
    engine = path.parts[:2] == ("runtimes", "engines") and path.stem in runtimes.facts.engines()
    form = path.parts[0] == "export" and path.parts[1].removesuffix(".py") in export.facts.formats()
    return not engine and not form


@pytest.mark.parametrize("path", [path for path in FILES if is_shared(path)], ids=str)
def test_shared_code_asks_for_no_engine_by_name(path: Path) -> None:
    asked = engine_tests((ROOT / path).read_text(encoding="utf-8"))
    assert not asked, f"{path} asks for {asked}: make it a fact or a method that the engine or format states"


@pytest.mark.parametrize(
    "line",
    [
        'name == "onnx"',
        'engine in ("onnxruntime", "bitwise")',
        'target.name.startswith("ort")',
        '{"tensorrt": 1}',
        'match name:\n  case "litert": pass',
        'path.with_suffix(".bin")',
        'path.suffix == ".tflite"',
    ],
)
def test_an_engine_that_is_asked_for_is_seen(line: str) -> None:
    assert engine_tests(line)


@pytest.mark.parametrize("line", ['source.kind == "onnx"', 'import onnx\nonnx.load("a")', '"""Of openvino."""'])
def test_other_words_are_none(line: str) -> None:
    assert not engine_tests(line)


LONGEST = 60
"""Lines of a function from its ``def`` to its end: docstring and signature count, decorators do not."""


def long_functions(source: str) -> list[str]:
    """The names of the functions and methods of ``source`` that have more than `LONGEST` lines."""
    return [
        node.name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or node.lineno) - node.lineno + 1 > LONGEST
    ]


def test_no_function_is_longer_than_a_screen() -> None:
    long = {f"{path.as_posix()}: {name}" for path in FILES for name in long_functions((ROOT / path).read_text("utf-8"))}
    assert not long, f"over {LONGEST} lines, take them apart: {sorted(long)}"


@pytest.mark.parametrize(("lines", "long"), [(LONGEST, []), (LONGEST + 1, ["f"])])
def test_a_long_function_is_seen(lines: int, long: list[str]) -> None:
    assert long_functions("@decorator\ndef f():\n" + "    pass\n" * (lines - 1)) == long
