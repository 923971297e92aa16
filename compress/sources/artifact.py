"""Artifact: a network on disk, without a pickle.

A folder holds ``manifest.json`` (where the network comes from, the edits since, its lineage, a digest of every file),
``weights.safetensors``, ``inputs.npz`` and ``expected.npz``. It is read by building the source again, replaying the
edits and loading the weights; a file that is not as it was written is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from .. import edits as edit_records
from ..core.complaint import first_complaint
from ..errors import InvalidInput
from ..files.outputs import new_folder
from ..files.untrusted import read_arrays, read_json
from ..graph.trace import first_names, named_tensors, trace
from ..integers import keys
from ..integers.encoding import Encoding
from .load import Network, build, name_code, require_named, tensors_in
from .manifest import Manifest, require_encodings
from .specification import Source

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
SOURCE = "source.onnx"
TOLERANCE = 1e-4
"""Of outputs that are computed again, relative to their largest value."""


def outputs_of(model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The network's output tensors, in order, in evaluation mode; what is random in it is drawn from seed 0."""
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        result = model.eval()(*inputs)
    return tuple(tensors_in(result))


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
        source = _write_source(source, folder)
    encodings, graph = _written_encodings(network)
    manifest: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "source": asdict(source),
        "edits": [edit_records.to_json(edit) for edit in network.edits],
        "lineage": [dict(record) for record in network.lineage],
        "encodings": {name: encoding.to_json() for name, encoding in encodings.items()},
        "graph": graph,
        "metrics": dict(metrics or {}),
        "torch": torch.__version__,
        "files": {path.name: _digest(path.read_bytes()) for path in sorted(folder.iterdir()) if path.is_file()},
    }
    manifest["digest"] = _digest(_canonical(manifest))
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _written_encodings(network: Network) -> tuple[Mapping[str, Encoding], str | None]:
    """The encodings under keys that outlive the trace, and the digest of the graph, where any is of an activation."""
    tensors = {name for name, _ in named_tensors(network.model)}
    if tensors.issuperset(network.encodings):
        return network.encodings, None
    graph = trace(network.model, network.example_inputs, dynamic_batch=True)
    return keys.with_keys(graph, network.encodings), keys.digest_of(graph)


def _read_encodings(
    manifest: Mapping[str, Any], model: nn.Module, inputs: tuple[Tensor, ...], path: Path
) -> dict[str, Encoding]:
    """The encodings by the names of parameters, and of nodes as this version of torch traces ``model``.

    Raises:
        InvalidInput: it traces other operations than were there when the network was quantized; or the artifact is
            from before encodings had keys, and was written under another version.
    """
    encodings = {name: Encoding.from_json(record) for name, record in manifest["encodings"].items()}
    tensors = {name for name, _ in named_tensors(model)}
    made_with, here = str(manifest.get("torch")), torch.__version__
    if tensors.issuperset(encodings):
        return encodings
    if manifest.get("graph") is None:
        if made_with != here:
            raise InvalidInput(
                f"artifact {path}: its integers are named as torch {made_with} traced the network, and this is torch "
                f"{here}; quantize again, or read it under {made_with}"
            )
        return encodings
    graph = trace(model, inputs, dynamic_batch=True)
    if keys.digest_of(graph) != manifest["graph"]:
        raise InvalidInput(
            f"artifact {path}: torch {here} traces other operations than torch {made_with} did when the network was "
            f"quantized, so its integers have no place; quantize again, or read it under {made_with}"
        )
    return keys.with_nodes(graph, encodings)


def _write_source(source: Source, folder: Path) -> Source:
    """Put the ONNX file, with the weights that lie beside it, into ``folder``; returns it as it is named there."""
    from .onnx_import.reading.read import write_whole

    path, place = Path(source.name), folder / SOURCE
    if not path.is_file():
        raise InvalidInput(f"model {path}: it is gone since it was read; put it back and start again")
    if source.sha256 and _digest(path.read_bytes()) != source.sha256:
        raise InvalidInput(f"model {path}: it was changed since it was read; start again")
    write_whole(path, place)
    return replace(source, name=SOURCE, sha256=_digest(place.read_bytes()))


def save(network: Network, path: Path, *, overwrite: bool = False, metrics: Mapping[str, Any] | None = None) -> None:
    """Write ``network`` as a new artifact folder at ``path``, whole or not at all.

    It is read back before it takes its place, as the next command will read it.

    Raises:
        InvalidInput: as :func:`compress.files.outputs.claim` says; or what is read back is another network, as where
            the code that builds it does not build the same one again.
    """
    with new_folder(path, overwrite=overwrite) as folder:
        write(network, folder, metrics)
        try:
            again = load(folder, trust=True)
        except InvalidInput as error:
            reason = str(error).replace(str(folder), str(path)).removeprefix(f"artifact {path}: ")
            raise InvalidInput(f"output {path}: it cannot be read back, so it is not written: {reason}") from error
        if difference := _difference(again, network):
            raise InvalidInput(
                f"output {path}: read back, {network.source} gives another network, so it is not written: {difference}"
            )


def _difference(again: Network, network: Network) -> str:
    """What of ``network`` an artifact does not keep, in words; "" if it is all there."""
    if dict(again.encodings) != dict(network.encodings):
        return "its encodings are others"
    rebuilt = again.model.state_dict()
    others = [n for n, t in network.model.state_dict().items() if n not in rebuilt or not _same(rebuilt[n], t, 0.0)]
    return f"{others[0]} has other values" if others else ""


def _same(a: Tensor, b: Tensor, tolerance: float) -> bool:
    """Whether the tensors are the same, to ``tolerance`` of the largest value."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if torch.equal(a, b):
        return True
    if not b.is_floating_point() and not b.is_complex():
        return False
    finite = b.isfinite()
    largest = float(b[finite].abs().max()) if bool(finite.any()) else 0.0
    return torch.allclose(a, b, rtol=0.0, atol=tolerance * largest, equal_nan=True)


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
        raise InvalidInput(f"artifact {path}: {MANIFEST}: {first_complaint(error).line('it')}") from error
    for name, digest in files.items():
        if not (path / name).is_file():
            raise InvalidInput(f"artifact {path}: {name} is missing; make the artifact again")
        if _digest((path / name).read_bytes()) != digest:
            raise InvalidInput(f"artifact {path}: {name} is not what was written (truncated or changed); make it again")
    return manifest


def load(path: Path, *, trust: bool = False, source: str | None = None) -> Network:
    """The network of the artifact at ``path``: its outputs are those it was written with, bit for bit.

    Args:
        trust: import and call the code that the artifact names, though this user did not name it before.
        source: ``file.py:callable`` or ``package.module:callable``, the code that builds its network now, in place of
            what the artifact names.

    Raises:
        InvalidInput: the artifact is damaged, or its source is gone or no longer builds the same network, or it names
            code that this user neither named before nor trusts.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    manifest = read_manifest(path)
    built_by = _built_by(Source(**manifest["source"]), path, trust, source)
    inputs = stored_inputs(path)
    model, _ = build(built_by, input_shape=tuple(inputs[0].shape) if len(inputs) == 1 else None)
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
            f"artifact {path}: {built_by} no longer builds the network that was saved: "
            f"{str(error).splitlines()[-1].strip()}"
        ) from error
    network = Network(
        model.eval(),
        built_by,
        edits,
        tuple(manifest["lineage"]),
        example_inputs=inputs,
    )
    _require_same_outputs(network, expected_outputs(path), path)
    return replace(network, encodings=_read_encodings(manifest, network.model, inputs, path))


def _built_by(recorded: Source, path: Path, trust: bool, named: str | None) -> Source:
    """What builds the network of the artifact at ``path``: what it names, or the code that the user names instead."""
    if recorded.kind == "onnx":
        return replace(recorded, name=str((path / SOURCE).resolve()))
    if named is not None and recorded.kind in ("file", "module"):
        named_source = name_code(named)
        return replace(named_source, options={**recorded.options, **named_source.options})
    require_named(recorded, f"artifact {path}", trust=trust)
    if recorded.kind == "file" and not Path(recorded.name).is_file():
        raise InvalidInput(
            f"artifact {path}: its source {recorded.name} is gone; put the file back, or tell where it is now: "
            f"--source FILE.py:{recorded.attribute}"
        )
    return recorded


def _require_same_outputs(network: Network, expected: tuple[Tensor, ...], path: Path) -> None:
    """Raise InvalidInput unless ``network`` computes what it did when it was written to ``path``."""
    source = network.source
    try:
        got = outputs_of(network.model, network.example_inputs)
    except Exception as error:
        reason = f"does not run any more ({type(error).__name__}: {error})"
        raise InvalidInput(f"artifact {path}: the network that {source} builds {reason}") from error
    got = tuple(t.float() if t.dtype == torch.bfloat16 else t for t in got)
    if len(got) == len(expected) and all(_same(a, b, TOLERANCE) for a, b in zip(got, expected, strict=True)):
        return
    if source.kind not in ("file", "module"):
        raise InvalidInput(f"artifact {path}: its network computes something else than when it was written")
    changed = source.kind == "file" and _digest(Path(source.name).read_bytes()) != source.sha256
    culprit = f"{source.name} has changed, and" if changed else f"{source.name}, or what it imports or reads, changed:"
    raise InvalidInput(f"artifact {path}: {culprit} the network computes something else now")


def stored_inputs(path: Path) -> tuple[Tensor, ...]:
    """The inputs that the artifact at ``path`` is tried on, one for each of its network."""
    return _read_arrays(path / "inputs.npz")


def expected_outputs(path: Path) -> tuple[Tensor, ...]:
    """The outputs that the artifact's network had on its stored inputs when it was written."""
    return _read_arrays(path / "expected.npz")


def weights_digest(model: nn.Module) -> str:
    """SHA-256 over the names, shapes and values of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        values = tensor.detach().cpu().contiguous().flatten()
        digest.update(values.view(torch.uint8).numpy().tobytes() if len(values) else b"")
    return digest.hexdigest()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _canonical(manifest: Mapping[str, Any]) -> bytes:
    return json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()


def _write_arrays(path: Path, tensors: tuple[Tensor, ...]) -> None:
    numbers = (t.float() if t.dtype == torch.bfloat16 else t for t in (t.detach().cpu() for t in tensors))
    np.savez(path, **{f"{i:03}": tensor.numpy() for i, tensor in enumerate(numbers)})  # type: ignore[arg-type]


def _read_arrays(path: Path) -> tuple[Tensor, ...]:
    arrays = read_arrays(path, "artifact", "make it again")
    return tuple(torch.from_numpy(arrays[name]) for name in sorted(arrays))
