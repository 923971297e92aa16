"""Settings of the documentation: ``make docs`` builds it into ``out/docs``, and warnings are errors."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

project = "edgepress"
author = "the edgepress authors"
copyright = "the edgepress authors, Apache-2.0"  # noqa: A001 - the name that Sphinx wants

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["generate"]
html_theme = "furo"
html_title = "edgepress"
html_show_sphinx = False

myst_heading_anchors = 3  # a link may name a heading: prune.md#criteria
myst_enable_extensions = ["deflist"]
suppress_warnings = ["ref.python"]  # names that two modules share are shown, not linked

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_mock_imports: list[str] = []
napoleon_numpy_docstring = False

_ANY_ARRAY = re.compile(r"~?numpy\.ndarray\[tuple\[~?typing\.Any, \.\.\.\], ~?numpy\.dtype\[~?typing\.Any\]\]")


def in_short(
    _app: object, what: str, _name: str, kind: Any, _options: Any, signature: str | None, result: str | None
) -> tuple[str | None, str | None]:
    """Of a configuration its settings with their defaults: types and bounds stand in the reference of settings.

    Elsewhere functions that are defaults are called by their names, without which Sphinx cannot read the signature, and
    arrays of any shape and type are arrays.
    """
    if what != "class" or not issubclass(kind, BaseModel):
        named = re.sub(r"<function (\w+)[^>]*>", r"\1", signature or "").replace("<factory>", "...")
        return _ANY_ARRAY.sub("~numpy.ndarray", named) or signature, result
    settings = [
        key if field.is_required() else f"{key}={_default(field.get_default(call_default_factory=True))}"
        for key, field in kind.model_fields.items()
    ]
    return f"({', '.join(['*', *settings] if settings else [])})", result


def _default(default: object) -> str:
    return f"{type(default).__name__}()" if isinstance(default, BaseModel) else repr(default)


def setup(app: Sphinx) -> None:
    """What Sphinx calls."""
    app.connect("autodoc-process-signature", in_short)
