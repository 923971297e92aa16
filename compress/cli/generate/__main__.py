"""Write the files that follow from the settings of configurations: ``python -m compress.cli.generate``.

Options of the command line are read from a table, so that ``compress --help`` imports neither pydantic nor torch. A
test fails where a file is not what this would write.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ...core.parts import Kind
from ...core.settings import flag_of, setting_of
from ...data import DataConfig
from ...deploy.modes import Modes
from ...distill import Distill
from ...errors import CompressError, InvalidInput
from ...prune import Prune, RemoveBlocks
from ...prune.regularize import Regularize
from ...quantize import Quantize
from ...recipe import Benchmark, Export, schema
from ...scan import SensitivityScan
from ...share import Share
from ...siblings import models, runtimes
from ...sparsify import Sparsify
from ...stage import Config
from ...substitute.stage import Substitute
from ...training.loop import Training
from ..grammar import generated
from . import engine_pages, reference_pages
from .shapes import configuration_in, in_words, parts_in, shape_of, standard

ROOT = Path(__file__).resolve().parents[3]

CONFIGURATIONS: Mapping[str, type[Config]] = {
    "train": Training,
    "export": Export,
    "bench": Benchmark,
    "bench_modes": Modes,
    "regularize": Regularize,
    "prune": Prune,
    "quantize": Quantize,
    "remove_blocks": RemoveBlocks,
    "sparsify": Sparsify,
    "sensitivity": SensitivityScan,
    "share": Share,
    "distill": Distill,
    "substitute": Substitute,
}
"""What commands set, by the name under which their options are asked for."""

LEFT_OUT = {"train": ("temperature", "teacher_weight")}
"""Settings that mean nothing to a command."""


def files() -> Mapping[Path, str]:
    """What each file is to hold."""
    reference = ROOT / "docs" / "reference"
    return {
        generated.FILE: _json(options_table()),
        ROOT / "recipes" / "schema.json": _json(schema()),
        reference / "engines.md": engine_pages.page(),
        reference / "commands.md": reference_pages.commands(),
        reference / "settings.md": reference_pages.settings(),
    }


def options_table() -> dict[str, Any]:
    """What the command line needs to know of configurations and networks."""
    settings = {
        name: [each for each in options_of(kind) if each["name"] not in LEFT_OUT.get(name, ())]
        for name, kind in CONFIGURATIONS.items()
    }
    for name, entries in settings.items():
        flags = [flag for entry in entries for flag in entry["flags"]]
        twice = sorted({flag for flag in flags if flags.count(flag) > 1})
        if twice:
            raise InvalidInput(f"{name}: several settings have the option {', '.join(twice)}; rename all but one")
    settings["data"] = list(options_of(DataConfig, fields=("resize", "validation", "calibration")))
    return {"zoo": list(models.names()), "settings": settings}


def options_of(
    kind: type[BaseModel],
    place: str = "",
    made: BaseModel | None = None,
    switch: str | None = None,
    fields: Iterable[str] | None = None,
) -> Iterator[dict[str, Any]]:
    """The options of a configuration, those of configurations inside it among them.

    Args:
        place: of a configuration inside another one, with a dot at its end.
        made: such a configuration as it is where nothing is set.
        switch: the setting that must be given for it to be made.
        fields: those alone.
    """
    for name, field in kind.model_fields.items() if fields is None else ((f, kind.model_fields[f]) for f in fields):
        inner = configuration_in(field)
        parts = parts_in(field)
        if parts is not None:
            yield _option(kind, name, field, place, field.default, switch)
            yield from _of_parts(parts, f"{place}{name}.", getattr(kind, "HEADING", ""), setting_of(field).group)
        elif inner is not None:
            default = standard(field)
            optional = field.default is None
            switches = [f"{place}{name}.{each}" for each, f in inner.model_fields.items() if setting_of(f).switch]
            yield from options_of(inner, f"{place}{name}.", default, switches[0] if optional and switches else None)
        elif not setting_of(field).hidden:
            default = getattr(made, name) if made is not None else field.get_default(call_default_factory=True)
            yield _option(kind, name, field, place, default, switch)


def _of_parts(parts: Kind[Any], place: str, heading: str, group: str) -> Iterator[dict[str, Any]]:
    """The settings of a field's parts that have options of their own: those that say which."""
    seen: set[str] = set()
    for part in (parts.base, *map(parts.part, parts.names)):
        for name, field in part.model_fields.items():
            if setting_of(field).flag is not None and name not in seen:
                seen.add(name)
                entry = _option(part, name, field, place, None if part is not parts.base else field.default, None)
                yield {**entry, "group": group or heading, "part": place.rstrip(".")}


def _option(
    kind: type[BaseModel], name: str, field: FieldInfo, place: str, default: Any, switch: str | None
) -> dict[str, Any]:
    """One option, in plain values; what is empty is left out."""
    own = setting_of(field)
    parts = parts_in(field)
    shape, choices = shape_of(field.annotation) if parts is None else ("part", [])
    assert field.description, f"{kind.__name__}.{name}: it has no description"
    flags = [own.short, flag_of(kind, name)]
    is_switch = switch == f"{place}{name}"
    entry: dict[str, Any] = {
        "name": f"{place}{name}",
        "flags": [flag for flag in flags if flag],
        "off": own.off or (f"--no-{name.replace('_', '-')}" if shape == "flag" and default is not False else None),
        "type": shape,
        "choices": own.choices or choices,
        "default": "" if is_switch else in_words(default, own.unit),
        "help": field.description,
        "group": own.group or getattr(kind, "HEADING", ""),
        "common": own.common,
        "metavar": own.metavar,
        "switch": switch,
        "parts": parts.package.partition(".")[2].replace(".", "/") if parts is not None else None,
    }
    return {key: value for key, value in entry.items() if value}


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    """Write every file that is stale, and tell which: the table first, which the commands are made of."""
    try:
        _write({generated.FILE: _json(options_table())})
        generated.table.cache_clear()
        _write(files())
    except (CompressError, runtimes.errors.RuntimesError) as error:
        sys.exit(f"error: {error}")


def _write(wanted: Mapping[Path, str]) -> None:
    for path, text in wanted.items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            print(f"written: {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
