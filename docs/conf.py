"""Settings of the documentation: ``make docs`` builds it into ``out/docs``, and warnings are errors."""

from __future__ import annotations

import sys
from pathlib import Path

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
