"""The conversion itself, by pnnx: a traced module becomes layers and weights in float32.

pnnx reads TorchScript, so the graph of ``torch.export`` is traced once more. It takes the batch out of the network
where it finds which dimension that is; where it does not, the layers that do so are added here: the file's inputs and
outputs are samples, always.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

import pnnx
import torch
from torch import Tensor
from torch.fx import GraphModule

from compress.errors import GateFailed, InvalidInput
from compress.graph.trace import Graph

from ..format import NotConvertible
from . import param
from .param import Layer

SECONDS = 1800
NO_BATCH = 233
"""What pnnx calls the dimension of the batch where it found none."""


@dataclass
class Converted:
    """A network as ncnn has it: its layers, and the bytes of their weights."""

    layers: list[Layer]
    weights: bytes


def convert(module: GraphModule, graph: Graph, example_inputs: tuple[Tensor, ...], path: Path) -> Converted:
    """``module``, whose operations are those of ``graph``, as layers of ncnn.

    Args:
        example_inputs: batches of one.
        path: named in errors.

    Raises:
        InvalidInput: ncnn has no layer for an operation, or none for such a shape.
        GateFailed: pnnx failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        made = _run(module, example_inputs, Path(folder), path)
        layers = param.read(made.read_text(encoding="utf-8"))
        script = made.parent.joinpath("network_ncnn.py").read_text(encoding="utf-8")
        weights = made.with_suffix(".bin").read_bytes()
    for layer in layers:
        if not re.fullmatch(r"\w+", layer.kind):
            raise NotConvertible(path, f"ncnn has no layer for {_blame(layer.kind, graph)}")
    with torch.no_grad():
        results = module(*example_inputs)
    results = (results,) if isinstance(results, Tensor) else tuple(results)
    _give_samples(layers, script, example_inputs, results, path)
    return Converted(layers, weights)


def _run(module: GraphModule, example_inputs: tuple[Tensor, ...], folder: Path, path: Path) -> Path:
    """The .param file that pnnx made, with the .bin file and a script beside it."""
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            scripted = torch.jit.trace(module, example_inputs, check_trace=False)
            torch.jit.save(scripted, folder / "network.pt")
    except Exception as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise NotConvertible(path, "the network cannot be converted to TorchScript", reason) from error
    shapes = ",".join(f"[{','.join(map(str, x.shape))}]f32" for x in example_inputs)
    try:
        done = subprocess.run(
            [pnnx.EXEC_PATH, "network.pt", f"inputshape={shapes}", "fp16=0", "device=cpu"],
            cwd=folder,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise GateFailed(
            f"export {path}: pnnx did not end within {SECONDS // 60} minutes; choose another --format"
        ) from error
    made = folder / "network.ncnn.param"
    if done.returncode or not made.is_file() or not made.with_suffix(".bin").is_file():
        said = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise GateFailed(f"export {path}: pnnx failed (code {done.returncode}): {said[-1] if said else 'said nothing'}")
    return made


def _blame(kind: str, graph: Graph) -> str:
    """The operation that pnnx left as ``kind`` ("torch.roll", "aten::roll"), with the line of the user's code."""
    name = re.split(r"[.:]+", kind)[-1].rstrip("_").lower()
    for node in graph.calls():
        called = str(getattr(node.target, "_opname", None) or getattr(node.target, "__name__", node.target))
        if called.rstrip("_").lower() == name:
            return f"{called} ({graph.source(node)}); write it with other operations, or choose another --format"
    return kind


def _give_samples(
    layers: list[Layer], script: str, inputs: tuple[Tensor, ...], results: tuple[Tensor, ...], path: Path
) -> None:
    """Write the shapes of samples at the inputs, and take the batch of one away where pnnx left it."""
    entries = [layer for layer in layers if layer.kind == "Input"]
    names = [layer.tops[0] for layer in entries]
    outputs = param.returned(layers)
    wanted = [f"in{n}" for n in range(len(inputs))], [f"out{n}" for n in range(len(results))]
    if (sorted(names), sorted(outputs)) != (sorted(wanted[0]), sorted(wanted[1])):
        raise InvalidInput(
            f"export {path}: in ncnn the network would take {', '.join(names) or 'nothing'} and give "
            f"{', '.join(outputs) or 'nothing'}, not {len(inputs)} inputs and {len(results)} results; "
            f"every input must be used, and every result computed from one"
        )
    for entry in entries:
        x = inputs[int(entry.tops[0].removeprefix("in"))]
        entry.parameters = _shape(x.shape[1:], path)
        if not _is_sample(script, entry.tops[0], path):
            inside = f"{entry.tops[0]}_batch"
            for layer in layers:
                layer.bottoms = [inside if blob == entry.tops[0] else blob for blob in layer.bottoms]
            added = Layer("Reshape", f"{entry.tops[0]}_reshape", list(entry.tops), [inside], _shape(x.shape, path))
            layers.insert(layers.index(entry) + 1, added)
    for name, result in zip(wanted[1], results, strict=True):
        if not result.ndim or result.shape[0] != 1 or result.dtype != torch.float32:
            raise InvalidInput(
                f"export {path}: result {name} is {result.dtype} of shape {tuple(result.shape)} on one sample; "
                f"ncnn gives float32, batch first"
            )
        if not _is_sample(script, name, path):
            inside = f"{name}_batch"
            for layer in layers:
                layer.tops = [inside if blob == name else blob for blob in layer.tops]
            layers.append(Layer("Reshape", f"{name}_reshape", [inside], [name], _shape(result.shape[1:], path)))


def _is_sample(script: str, blob: str, path: Path) -> bool:
    """Whether ``blob`` has no dimension for the batch, as pnnx's own script feeds and reads it."""
    match = re.search(rf'"{blob}", ncnn\.Mat\({blob}\.numpy\(\), batch_index=(\d+)\)', script)
    match = match or re.search(rf"{blob}\.numpy\(batch_index=(\d+)\)", script)
    if match is None or int(match[1]) not in (0, NO_BATCH):
        where = "nowhere that is known" if match is None else f"in dimension {match[1]}"
        raise GateFailed(f"export {path}: pnnx put the batch of {blob} {where}; give a network with the batch first")
    return int(match[1]) == 0


def _shape(sizes: torch.Size, path: Path) -> dict[str, str]:
    """The parameters by which Input and Reshape tell a shape: width, height, depth, channels."""
    keys = {1: "0", 2: "10", 3: "210", 4: ("2", "11", "1", "0")}.get(len(sizes))
    if keys is None:
        raise InvalidInput(f"export {path}: a sample of shape {tuple(sizes)}: ncnn has 1 to 4 dimensions")
    return dict(sorted(zip(keys, map(str, sizes), strict=True), key=lambda item: int(item[0])))
