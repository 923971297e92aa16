"""A torch module without a source that can be named, written to a file that an engine runs, and checked there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from .. import deploy
from ..errors import InvalidInput
from ..files.outputs import new_files
from ..graph.trace import trace
from ..integers import keys
from ..integers.encoding import Encoding
from ..report.schema import ExportRecord
from ..siblings import export as exporters
from ..sources.load import Network, check_runs
from ..sources.specification import Source
from ..sources.weights import require_finite
from ..stage import evaluation_copy
from .files import fold_for_export


def export(
    model: nn.Module,
    example_inputs: Tensor | tuple[Tensor, ...],
    path: Path | str,
    *,
    encodings: Mapping[str, Encoding] | None = None,
    wanted: deploy.Wanted | None = None,
    overwrite: bool = False,
) -> ExportRecord:
    """What was written to ``path``: bytes, digest, the nodes that ran in integers, and how the outputs agree.

    The file is run in its engine on ``example_inputs`` at once and held against ``model``, or against what the
    encodings make of it; one that computes something else is not kept. Batch norms of a network in floats are folded.
    ``model`` itself is left as it was. Where the engine is not there, ``parity`` is None and ``notes`` say so.

    Args:
        example_inputs: one tensor per input, batch first, as ``model(*example_inputs)`` takes them.
        path: its suffix tells the format (``.onnx``, ``.tflite``, ...), unless ``wanted`` does.
        encodings: of a quantized network, ``result.encodings`` of the stage that returned ``model``.
        wanted: the target and what else the file is to be.
        overwrite: replace a file that is there.

    Raises:
        InvalidInput: the suffix is of no format, the file exists, the module does not run, has values that are not
            finite or tensors other than those of the encodings, or cannot be written so.
        PackageMissing: the format's packages are not installed.
        GateFailed: the file breaks a rule of its target, or computes something else.
    """
    path = Path(path)
    wanted = _of_suffix(path, wanted or deploy.Wanted())
    inputs = (example_inputs,) if isinstance(example_inputs, Tensor) else tuple(example_inputs)
    network = fold_for_export(_network(model, inputs, encodings or {}))
    with new_files(path, overwrite=overwrite) as folder:
        return deploy.export(network, path.stem, folder / path.name, wanted, shown=str(path))[0]


def _of_suffix(path: Path, wanted: deploy.Wanted) -> deploy.Wanted:
    """``wanted``, in the format that the name of the file tells where nothing else does."""
    formats = exporters.facts.formats()
    if wanted.format is None and wanted.target is None:
        named = next((each.name for each in formats.values() if path.name.endswith(each.suffix)), None)
        if named is None:
            raise InvalidInput(
                f"export {path}: expected a name that ends in {', '.join(each.suffix for each in formats.values())}"
            )
        wanted = replace(wanted, format=named)
    suffix = deploy.suffix_of(wanted)
    if not path.name.endswith(suffix):
        raise InvalidInput(f"export {path}: files of the format {wanted.resolved()[0]} end in {suffix}")
    return wanted


def _network(model: nn.Module, inputs: tuple[Tensor, ...], encodings: Mapping[str, Encoding]) -> Network:
    """A copy of ``model`` on this machine's processor that runs on ``inputs`` and has what the encodings are of."""
    kind = type(model)
    copied = evaluation_copy(model).cpu()
    inputs = tuple(x.detach().cpu() for x in inputs)
    require_finite(copied, f"model {kind.__name__}")
    check_runs(copied, inputs, kind.__name__)
    if encodings:
        keys.with_keys(trace(copied, inputs, dynamic_batch=True), encodings)  # each of them is of a tensor here
    source = Source("module", kind.__module__, kind.__qualname__)
    return Network(copied, source, encodings=dict(encodings), example_inputs=inputs)
