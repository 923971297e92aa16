"""Write the files that follow from the settings of configurations: ``python -m compress.cli.generate``.

Options of the command line are read from a table, so that ``compress --help`` imports neither pydantic nor torch. A
test fails where a file is not what this would write.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..siblings import models
from . import engine_pages, generated

ROOT = Path(__file__).resolve().parent.parent.parent


def files() -> Mapping[Path, str]:
    """What each file is to hold."""
    return {generated.FILE: _json(options_table()), ROOT / "docs" / "reference" / "engines.md": engine_pages.page()}


def options_table() -> dict[str, Any]:
    """What the command line needs to know of configurations and networks."""
    return {"zoo": list(models.names())}


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    """Write every file that is stale, and tell which."""
    for path, text in files().items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            print(f"written: {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
