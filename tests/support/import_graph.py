"""Which of our modules imports which, read from their source: statements anywhere in a file, in functions too."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

from docs.generate.architecture import circles as components

Graph = Mapping[str, frozenset[str]]
SIBLINGS = "compress.siblings"
"""The module that gives the packages beside `compress`, whose modules are its attributes."""
DOORS = ("compress", SIBLINGS)
"""Modules that import what they offer when it is asked for; what they list for the type checker is not imported."""


def import_graph(root: Path, packages: tuple[str, ...]) -> Graph:
    """Each module below the folder ``root``, with the modules among them that it imports.

    A package's ``__init__`` runs before anything in the package, so that whoever imports a module from outside of a
    package imports that package too. What is imported for annotations alone, under TYPE_CHECKING, counts as well:
    with those, a circle is one for a reader and for a type checker.
    """
    files = {_name(file.relative_to(root)): file for package in packages for file in (root / package).rglob("*.py")}
    return {
        name: frozenset() if name in DOORS else frozenset(_imports(name, file, files)) for name, file in files.items()
    }


def circles(graph: Graph) -> list[list[str]]:
    """The groups of modules that import each other, be it by way of others: empty in a good graph.

    >>> circles({"a": frozenset("b"), "b": frozenset("c"), "c": frozenset("b")})
    [['b', 'c']]
    """
    return [list(group) for group in components(graph) if len(group) > 1]


def _name(file: Path) -> str:
    parts = file.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(name: str, file: Path, files: Mapping[str, Path]) -> Iterator[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    beside: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _with_packages(alias.name, name, files)
        elif isinstance(node, ast.ImportFrom):
            source = _source(node, package)
            if source == SIBLINGS:
                beside |= {alias.asname or alias.name: alias.name for alias in node.names}
            for alias in node.names:
                inner = f"{source}.{alias.name}"
                yield from _with_packages(inner if inner in files else source, name, files)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            chain = ast.unparse(node).split(".")
            if chain[0] in beside:
                target = ".".join([beside[chain[0]], *chain[1:]])
                if target in files:
                    yield from _with_packages(target, name, files)


def _source(node: ast.ImportFrom, package: str) -> str:
    """The module that a ``from`` statement names, in full."""
    above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
    return ".".join([*above, *([node.module] if node.module else [])])


def _with_packages(target: str, importer: str, files: Mapping[str, Path]) -> Iterator[str]:
    """``target`` and the packages that run before it, as far as they are ours and not around the importer."""
    parts = target.split(".")
    for length in range(1, len(parts) + 1):
        module = ".".join(parts[:length])
        around = importer == module or importer.startswith(f"{module}.")
        if module in files and (not around or (module == target and importer != module)):
            yield module
