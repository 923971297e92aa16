"""Command lines run as their users run them: through the entry point, with an exit code."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable

import pytest

from compress.cli import main


def runner(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """``run(line, code=0)``: runs ``compress LINE``, asserts its exit code, and returns stdout; stderr on errors."""

    def run(line: str, code: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["compress", *shlex.split(line)])
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capfd.readouterr()
        assert end.value.code == code, err
        return err if code else out

    return run
