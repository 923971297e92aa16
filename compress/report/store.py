"""Reports on disk: ``report.json`` and ``report.html``, written whole or not at all."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from ..core.complaint import first_complaint
from ..errors import InvalidInput
from ..files.outputs import new_files
from ..files.untrusted import read_json
from .page import render
from .schema import SCHEMA_VERSION, Report

JSON_NAME, HTML_NAME = "report.json", "report.html"


def write(report: Report, folder: str | Path) -> tuple[Path, Path]:
    """Write ``report.json`` and ``report.html`` into ``folder``, made if it is not there; returns their paths.

    Each is written in full beside its place and renamed at the end, so that a failure leaves what was there before.

    Raises:
        InvalidInput: the folder cannot be written to.
    """
    folder = Path(folder)
    texts = {JSON_NAME: report.model_dump_json(indent=1) + "\n", HTML_NAME: render(report)}
    with new_files(folder / JSON_NAME, overwrite=True) as made:
        for name, text in texts.items():
            (made / name).write_text(text, encoding="utf-8")
    return folder / JSON_NAME, folder / HTML_NAME


def read(path: str | Path) -> Report:
    """The report in the file ``path``, or in ``report.json`` of the folder ``path``.

    Raises:
        InvalidInput: there is no such file, it is no complete JSON, or it is not a report of a version known here.
    """
    path = Path(path)
    if path.is_dir():
        path = path / JSON_NAME
    content = read_json(path, "report", "give a report.json, or the folder of a run that holds one")
    if not isinstance(content, dict) or "schema_version" not in content:
        raise InvalidInput(f"report {path}: expected a mapping with a schema_version, got none; give a report.json")
    version = content["schema_version"]
    if version != SCHEMA_VERSION or isinstance(version, bool):
        raise InvalidInput(
            f"report {path}: expected schema_version {SCHEMA_VERSION}, got {version!r:.40}; "
            "read it with the version of edgepress that wrote it, or run the command again"
        )
    try:
        return Report.model_validate(content)
    except ValidationError as error:
        complaint = first_complaint(error)
        raise InvalidInput(
            f"report {path}: {complaint.line('it')}{complaint.and_more}; "
            "the file was changed or is incomplete: run the command again"
        ) from None
