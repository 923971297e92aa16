"""Artifact: a network on disk, without a pickle.

A folder holds ``manifest.json`` (where the network comes from, the edits since, its lineage, a digest of every file),
``weights.safetensors``, ``inputs.npz`` and ``expected.npz``. It is read by building the source again, replaying the
edits and loading the weights; a file that is not as it was written is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from . import edits as edit_records
from .errors import InvalidInput
from .graph import first_names
from .load import Network, Source, build, require_named
from .manifest import Manifest, require_encodings
from .outputs import new_folder
from .quantize.encoding import Encoding
from .untrusted import read_arrays, read_json

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"


def outputs_of(model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The network's outputs, as a tuple, in evaluation mode."""
    with torch.no_grad():
        result = model.eval()(*inputs)
    if isinstance(result, dict):
        result = tuple(result.values())
    return tuple(result) if isinstance(result, (tuple, list)) else (result,)


def write(network: Network, folder: Path, metrics: Mapping[str, Any] | None = None) -> None:
    """Fill an existing, empty ``folder`` with the artifact of ``network``."""
    from safetensors.torch import save_file

    model = network.model.eval()
    first = first_names(model)  # a tensor that modules share is stored once
    stored = {name: tensor for name, tensor in model.state_dict().items() if first.get(name, name) == name}
    save_file({k: v.detach().clone().contiguous() for k, v in stored.items()}, folder / "weights.safetensors")
    _write_arrays(folder / "inputs.npz", network.example_inputs)
    _write_arrays(folder / "expected.npz", outputs_of(model, network.example_inputs))
    source = network.source
    if source.kind == "onnx":
        shutil.copyfile(source.name, folder / "source.onnx")
    manifest: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "source": {**asdict(source), "name": "source.onnx" if source.kind == "onnx" else source.name},
        "edits": [edit_records.to_json(edit) for edit in network.edits],
        "lineage": [dict(record) for record in network.lineage],
        "encodings": {name: encoding.to_json() for name, encoding in network.encodings.items()},
        "metrics": dict(metrics or {}),
        "torch": torch.__version__,
        "files": {path.name: _digest(path.read_bytes()) for path in sorted(folder.iterdir()) if path.is_file()},
    }
    manifest["digest"] = _digest(_canonical(manifest))
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def save(network: Network, path: Path, *, overwrite: bool = False, metrics: Mapping[str, Any] | None = None) -> None:
    """Write ``network`` as a new artifact folder at ``path``, whole or not at all."""
    with new_folder(path, overwrite=overwrite) as folder:
        write(network, folder, metrics)


def is_artifact(path: Path) -> bool:
    """Whether ``path`` is a folder that claims to be an artifact."""
    return (path / MANIFEST).is_file()


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of the artifact at ``path``, after checking every digest.

    Raises:
        InvalidInput: something is missing, damaged, changed, or of another schema version.
    """
    if not os.path.lexists(path / MANIFEST):
        raise InvalidInput(f"artifact {path}: no {MANIFEST}; is this the output folder of an earlier command?")
    try:
        manifest: dict[str, Any] = read_json(path / MANIFEST, "artifact", "it is damaged; make it again")
        version, recorded, files = manifest["schema_version"], manifest.pop("digest"), manifest["files"]
    except (KeyError, TypeError, AttributeError) as error:
        raise InvalidInput(f"artifact {path}: {MANIFEST} is damaged ({error!r}); make the artifact again") from error
    if version != SCHEMA_VERSION:
        raise InvalidInput(f"artifact {path}: schema version {version}, and this program reads {SCHEMA_VERSION}")
    if _digest(_canonical(manifest)) != recorded:
        raise InvalidInput(f"artifact {path}: {MANIFEST} was changed after it was written; make the artifact again")
    try:
        Manifest.model_validate(manifest)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise InvalidInput(f"artifact {path}: {MANIFEST}: {place}: {first['msg']}") from error
    for name, digest in files.items():
        if not (path / name).is_file():
            raise InvalidInput(f"artifact {path}: {name} is missing; make the artifact again")
        if _digest((path / name).read_bytes()) != digest:
            raise InvalidInput(f"artifact {path}: {name} is not what was written (truncated or changed); make it again")
    return manifest


def load(path: Path, *, trust: bool = False) -> Network:
    """The network of the artifact at ``path``: its outputs are those it was written with, bit for bit.

    Args:
        trust: import and call the code that the artifact names, though this user did not name it before.

    Raises:
        InvalidInput: the artifact is damaged, or its source is gone or no longer builds the same network, or it names
            code that this user neither named before nor trusts.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    manifest = read_manifest(path)
    source = Source(**manifest["source"])
    require_named(source, f"artifact {path}", trust=trust)
    if source.kind == "file" and not Path(source.name).is_file():
        raise InvalidInput(f"artifact {path}: its source {source.name} is gone; put the file back")
    if source.kind == "onnx":
        source = replace(source, name=str((path / "source.onnx").resolve()))
    inputs = _read_arrays(path / "inputs.npz")
    model, _ = build(source, input_shape=tuple(inputs[0].shape) if len(inputs) == 1 else None)
    edits = tuple(edit_records.from_json(record) for record in manifest["edits"])
    edit_records.replay(model, edits)
    require_encodings(manifest["encodings"], {name: tuple(t.shape) for name, t in model.state_dict().items()}, path)
    try:
        state = load_file(path / "weights.safetensors")
    except (SafetensorError, OSError) as error:
        raise InvalidInput(f"artifact {path}: weights.safetensors cannot be read ({error}); make it again") from error
    for name, tensor in model.state_dict().items():
        if name in state and state[name].dtype != tensor.dtype:
            raise InvalidInput(
                f"artifact {path}: {name} is stored as {state[name].dtype}, and the network has {tensor.dtype}"
            )
    for name, other in first_names(model).items():
        if name not in state and other in state:
            state[name] = state[other]
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise InvalidInput(
            f"artifact {path}: {source} no longer builds the network that was saved: "
            f"{str(error).splitlines()[-1].strip()}"
        ) from error
    network = Network(
        model.eval(),
        source,
        edits,
        tuple(manifest["lineage"]),
        {name: Encoding.from_json(record) for name, record in manifest["encodings"].items()},
        inputs,
    )
    if source.kind == "file" and _digest(Path(source.name).read_bytes()) != source.sha256:
        expected = _read_arrays(path / "expected.npz")
        actual = outputs_of(model, network.example_inputs)
        if not all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(actual, expected, strict=True)):
            raise InvalidInput(
                f"artifact {path}: {source.name} has changed, and the network computes something else now"
            )
    return network


def expected_outputs(path: Path) -> tuple[Tensor, ...]:
    """The outputs that the artifact's network had on its stored inputs when it was written."""
    return _read_arrays(path / "expected.npz")


def weights_digest(model: nn.Module) -> str:
    """SHA-256 over the names, shapes and values of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _canonical(manifest: Mapping[str, Any]) -> bytes:
    return json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()


def _write_arrays(path: Path, tensors: tuple[Tensor, ...]) -> None:
    np.savez(path, **{f"{i:03}": tensor.detach().cpu().numpy() for i, tensor in enumerate(tensors)})  # type: ignore[arg-type]


def _read_arrays(path: Path) -> tuple[Tensor, ...]:
    arrays = read_arrays(path, "artifact", "make it again")
    return tuple(torch.from_numpy(arrays[name]) for name in sorted(arrays))
