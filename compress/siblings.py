"""Our own packages beside a user's project that has packages of the same names (``models``, ``export``).

``from .siblings import export`` gives our package, whatever else answers to that name where the user works. Its modules
are its attributes, imported when they are first looked at: ``export.facts.formats()``. Nothing in ``compress`` imports
them in another way.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parent.parent
NAMES = ("export", "models", "runtimes")


def sibling(name: str) -> ModuleType:
    """Our module ``name`` ("export.onnx.exporter"), whatever else answers to that name where the user works.

    Where the name is free, or ours already, this is a plain import. Where a module of the user's has it, ours is
    imported under an alias, and its relative imports follow.
    """
    top, _, rest = name.partition(".")
    location = ROOT / top
    imported = sys.modules.get(top)
    if imported is not None:
        ours = _is_ours(imported)
    else:
        spec = importlib.util.find_spec(top)
        ours = spec is not None and spec.origin is not None and Path(spec.origin).resolve().parent == location
    if ours:
        return importlib.import_module(name)
    alias = f"_edgepress_{top}"
    if alias not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            alias, location / "__init__.py", submodule_search_locations=[str(location)]
        )
        assert spec is not None and spec.loader is not None, f"{location} is a package"
        package = importlib.util.module_from_spec(spec)
        sys.modules[alias] = package
        spec.loader.exec_module(package)
    return importlib.import_module(f"{alias}.{rest}" if rest else alias)


if TYPE_CHECKING:
    import export as export
    import export.facts
    import export.format
    import export.onnx.contents
    import export.onnx.exporter
    import export.onnx.parts
    import export.rules
    import models as models
    import runtimes as runtimes
    import runtimes.bound
    import runtimes.cache
    import runtimes.checks.check
    import runtimes.checks.folder
    import runtimes.checks.gate
    import runtimes.checks.parts
    import runtimes.devices.adb
    import runtimes.devices.device
    import runtimes.devices.local
    import runtimes.devices.native.device
    import runtimes.devices.places
    import runtimes.devices.remote
    import runtimes.ending
    import runtimes.errors
    import runtimes.facts
    import runtimes.files.onnx_sound
    import runtimes.files.untrusted
    import runtimes.measure.benchmark
    import runtimes.measure.loop
    import runtimes.measure.measurement
    import runtimes.measure.modes.asked
    import runtimes.measure.modes.cold_start
    import runtimes.measure.modes.mode
    import runtimes.measure.modes.nodes
    import runtimes.measure.modes.roofline
    import runtimes.measure.modes.sustained
    import runtimes.measure.modes.sweep
    import runtimes.measure.presets
    import runtimes.measure.request
    import runtimes.measure.subject
    import runtimes.processor
    import runtimes.runtime
    import runtimes.sensors.conditions
    import runtimes.tensorrt.apart
    import runtimes.tensorrt.builder
    import runtimes.tensorrt.layers
    import runtimes.tensorrt.library
else:

    class _Package:
        """Our package ``name``: what it defines, and its modules, are imported when they are asked for."""

        def __init__(self, name: str) -> None:
            self._name = name
            self._folder = ROOT.joinpath(*name.split("."))

        def __getattr__(self, attribute: str) -> Any:
            name = f"{self._name}.{attribute}"
            if (self._folder / attribute / "__init__.py").exists():
                value = _Package(name)
            elif (self._folder / f"{attribute}.py").exists():
                value = sibling(name)
            else:
                return getattr(sibling(self._name), attribute)
            setattr(self, attribute, value)
            return value

    export, models, runtimes = (_Package(name) for name in NAMES)


def _is_ours(module: ModuleType) -> bool:
    origin = getattr(module, "__file__", None)
    return origin is not None and Path(origin).resolve().is_relative_to(ROOT / module.__name__.partition(".")[0])


@contextmanager
def users_imports(folder: Path) -> Iterator[None]:
    """Within: imports look into ``folder`` first, and our packages do not stand in the way of the user's."""
    ours = {
        name: module for name, module in sys.modules.items() if name.partition(".")[0] in NAMES and _is_ours(module)
    }
    for name in ours:
        del sys.modules[name]
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        taken = {name.partition(".")[0] for name in ours}
        for name in [n for n in sys.modules if n.partition(".")[0] in taken]:
            del sys.modules[name]
        sys.modules.update(ours)
