"""What a command line asks in vain, told before torch is imported, which takes longer than to find it out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import InvalidInput
from ...files.outputs import require_apart, require_free
from ...sources.specification import parse, readings, require_data
from . import generated


def require_possible(values: Mapping[str, Any]) -> None:
    """Raise InvalidInput where a command that takes a network cannot begin, by its parameters alone.

    The output exists, an input shape is none, data or a network are nowhere, or no network is named.
    """
    if values.get("output") is not None:
        require_free(values["output"], overwrite=bool(values.get("overwrite")))
    for text in values.get("input_shapes") or ():
        readings(text)
    if values.get("data") is not None:
        require_data(values["data"])
    for words in (one_network(values.get("network"), values["model"]), values.get("teacher")):
        if words and not Path(words).is_dir():
            parse(words, zoo=generated.table()["zoo"])


def require_inputs_stay(values: Mapping[str, Any]) -> None:
    """Raise InvalidInput where ``--output`` or ``--json-file`` would replace what the command reads."""
    told = values.get("json_file")
    told = told if told is not None and told.suffix.lower() == ".json" else None  # another name is refused anyhow
    outputs = {"--output": values.get("output"), "--json-file": told}
    inputs = [
        word
        for name, value in values.items()
        if name not in ("output", "json_file")
        for word in (value if isinstance(value, (tuple, list)) else [value])
        if isinstance(word, (str, Path))
    ]
    for option, output in outputs.items():
        if output is not None:
            require_apart(Path(output), inputs, option)
    if told is not None and told.is_file():
        folders = [Path(word) for word in inputs if Path(word).is_dir()]
        within = next((folder for folder in folders if told.resolve().is_relative_to(folder.resolve())), None)
        if within is not None:
            raise InvalidInput(
                f"--json-file {told}: it is a part of {within}, which is read, so it is not replaced; give another name"
            )


def one_network(argument: str | None, option: str | None) -> str:
    """The words for the network, which are given in one of two places: first, or with ``--model``.

    Raises:
        InvalidInput: they are given in both, or in neither.
    """
    if argument and option:
        raise InvalidInput(f"network given twice: {argument} and --model {option}; give one")
    words = argument or option
    if not words:
        raise InvalidInput("no network given; name it first, or with --model (try: resnet20, net.py:build, net.onnx)")
    return words
