"""Networks and the places they come from: the zoo, a user's code, an ONNX file."""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.machinery
import importlib.util
import inspect
import itertools
import math
import re
import sys
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType
from typing import Any

import torch
from torch import Tensor, nn

from ..core.edit import Edit
from ..errors import InvalidInput
from ..files.untrusted import ARRAY_BYTES, require_at_most
from ..integers.encoding import Encoding
from ..siblings import models, users_imports
from .specification import Source, parse, require_in_zoo
from .user_code import known, remember, require_definition

LARGE_IMAGE = 96
"""From this side on, a zoo network halves the image as often as its paper does for 224x224."""

LARGEST_OPTION = 2**20
"""Of the numbers among the options of a zoo network."""


@dataclass(frozen=True)
class Network:
    """A network with its history: what a command reads, and what it writes as an artifact.

    Args:
        edits: every edit since the source, in order; replayed on a fresh build they give this architecture.
        lineage: one record per stage: its name, configuration and digest of the weights that it left.
        encodings: of the quantized tensors, if it was quantized.
        example_inputs: shapes to trace with, and the inputs that parity is checked on.
    """

    model: nn.Module
    source: Source
    edits: tuple[Edit, ...] = ()
    lineage: tuple[Mapping[str, Any], ...] = ()
    encodings: Mapping[str, Encoding] = field(default_factory=dict)
    example_inputs: tuple[Tensor, ...] = ()

    @property
    def target(self) -> str | None:
        """The target whose integers the encodings were made for, by name, where a stage recorded one."""
        return next((made["target"] for made in reversed(self.lineage) if made.get("target")), None)

    def edits_since(self, earlier: Network) -> tuple[Edit, ...]:
        """The edits that made this network of ``earlier``; none where it was not made of it."""
        count = len(earlier.edits)
        made_of = self.source == earlier.source and self.edits[:count] == earlier.edits
        return self.edits[count:] if made_of else ()


def _require_sane(source: Source) -> None:
    """Raise InvalidInput unless the numbers among the options of a zoo network, which are all sizes, can be some."""
    for key, value in source.options.items():
        if isinstance(value, (int, float)) and not isinstance(value, bool) and not 0 < value <= LARGEST_OPTION:
            raise InvalidInput(f"model {source}: {key}: expected a number above 0, {LARGEST_OPTION} at most")


def has_large_images(shape: tuple[int, ...]) -> bool:
    """Whether a zoo network has its form for large images where they are of ``shape``, (..., height, width)."""
    return min(shape[-2:]) >= LARGE_IMAGE


def build(
    source: Source,
    defaults: Mapping[str, Any] | None = None,
    input_shape: tuple[int, ...] | None = None,
    largest: int = 1,
) -> tuple[nn.Module, Source]:
    """The network, with the weights that its source gives it, in evaluation mode; and the source, options completed.

    Args:
        defaults: options of a zoo network that the user did not set (``num_classes`` as the data has).
        input_shape: with its batch; what an ONNX file is tried on, where it leaves sizes open. A zoo network has the
            form for large images where this is one.
        largest: the largest integer that an ONNX file with inputs of integers is tried on, as the data has it.

    Raises:
        InvalidInput: the user's code fails or returns no network, or the ONNX file cannot be imported.
    """
    if source.kind == "onnx":
        from .onnx_import import load_onnx

        return load_onnx(Path(source.name), input_shape=input_shape, largest=largest).eval(), source
    if source.kind == "zoo":
        zoo = models
        require_in_zoo(source.name, f"model {source}")
        own = dict(defaults or {})
        if input_shape is not None and has_large_images(input_shape) and "small_images" in zoo.options(source.name):
            own["small_images"] = False
        complete = Source("zoo", source.name, options={**own, **source.options})
        _require_sane(complete)
        try:
            if complete.options:
                with torch.device("meta"):  # its shapes alone
                    sketch = zoo.build(source.name, **complete.options)
                size = sum(t.numel() * t.element_size() for t in sketch.state_dict().values())
                require_at_most(size, ARRAY_BYTES, "bytes of weights", f"model {source}")
            made = zoo.build(source.name, **complete.options)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InvalidInput(f"model {source}: {error}") from error
        return made.eval(), complete
    made = _call(source)
    if not isinstance(made, nn.Module):
        raise InvalidInput(f"model {source}: expected a torch.nn.Module, got {type(made).__name__}")
    return made.eval(), source


def call(specification: str) -> Any:
    """What the user's ``file.py:callable`` (or ``package.module:callable``) returns."""
    return _call(parse(specification))


def find(specification: str) -> Any:
    """The user's ``file.py:name`` (or ``package.module:name``) itself, not called; options are bound to it."""
    source = parse(specification)
    if source.kind not in ("file", "module"):
        raise InvalidInput(f"{specification}: expected file.py:name or package.module:name")
    remember(source.kind, source.name, source.attribute)
    with users_imports(_folder(source)):
        target = _attribute(source)
    return functools.partial(target, **source.options) if source.options else target


def _folder(source: Source) -> Path:
    return Path(source.name).parent if source.kind == "file" else Path.cwd()


def _attribute(source: Source) -> Any:
    module = _user_module(source)
    target: Any = module
    for part in source.attribute.split("."):
        if not hasattr(target, part):
            names = ", ".join(sorted(n for n, v in vars(module).items() if callable(v) and not n.startswith("_")))
            raise InvalidInput(f"{source}: {source.name} has no {source.attribute}; it has {names or 'no callables'}")
        target = getattr(target, part)
    if callable(target):
        require_definition(target, module.__name__, str(source))
    return target


def name_code(specification: str) -> Source:
    """The place of code that the user's ``file.py:callable`` (or ``package.module:callable``) names, known from now on.

    Raises:
        InvalidInput: it names no code.
    """
    source = parse(specification)
    if source.kind not in ("file", "module"):
        raise InvalidInput(f"--source {specification}: expected FILE.py:callable or package.module:callable")
    remember(source.kind, source.name, source.attribute)
    return source


def require_named(source: Source, where: str, *, trust: bool = False, named_by: str = "") -> None:
    """Raise InvalidInput if the file ``where`` names code that this user neither named before nor trusts.

    Args:
        named_by: the option with which the user names it, --source where it is left out.
    """
    if source.kind not in ("file", "module") or trust:
        return
    state = known(source.kind, source.name, source.attribute)
    if state == "named":
        return
    code = f"{source.name}:{source.attribute}"
    what = "which has changed since you named it" if state == "changed" else "which you have not named on this machine"
    raise InvalidInput(
        f"{where}: it names code to run, {code}, {what}; look at it, then name it yourself "
        f"({named_by or f'--source {code}'}), or add --trust (in Python trust=True) if you trust who wrote both"
    )


def _call(source: Source) -> Any:
    remember(source.kind, source.name, source.attribute)
    with users_imports(_folder(source)):
        target = _attribute(source)
        if not callable(target):
            return target
        try:
            inspect.signature(target).bind(**source.options)
        except TypeError as error:
            raise InvalidInput(f"{source}: {source.attribute} cannot be called so: {error}") from error
        except ValueError:
            pass  # a builtin without a signature
        try:
            return target(**source.options)
        except Exception as error:
            raise InvalidInput(f"{source}: {source.attribute} failed: {type(error).__name__}: {error}") from error


class _AsItStands(importlib.machinery.SourceFileLoader):
    """Compiles a file each time, and leaves nothing beside it: what Python keeps of a file stands for any other of its
    size that was written within the same second.
    """

    def get_code(self, fullname: str) -> CodeType:
        code: CodeType = self.source_to_code(self.get_data(self.path), self.path)
        return code


def _user_module(source: Source) -> Any:
    try:
        if source.kind == "module":
            return importlib.import_module(source.name)
        # A name of its own, so that a user's "export.py" or "train.py" meets nobody else's.
        name = f"_user_{Path(source.name).stem}_{hashlib.sha256(source.name.encode()).hexdigest()[:8]}"
        specification = importlib.util.spec_from_file_location(name, source.name, loader=_AsItStands(name, source.name))
        assert specification is not None and specification.loader is not None, "a .py file has a loader"
        module = importlib.util.module_from_spec(specification)
        sys.modules[name] = module
        specification.loader.exec_module(module)
        return module
    except Exception as error:
        raise InvalidInput(f"{source}: importing {source.name} failed: {type(error).__name__}: {error}") from error


def fitting_inputs(
    model: nn.Module, shapes: tuple[tuple[int, ...], ...], others: tuple[tuple[int, ...], ...], seed: int = 0
) -> tuple[Tensor, ...]:
    """Random inputs of ``shapes``, or of ``others`` where those fit better: the network runs on them and on twice the
    batch. Word numbers instead of normal values where the network looks its inputs up in tables. Where nothing fits,
    those of ``shapes``, for :func:`check_runs` to tell why.
    """
    first = random_inputs(shapes, seed)
    tried = [first, *([random_inputs(others, seed)] if others else [])]
    rows = [m.num_embeddings for m in model.modules() if isinstance(m, (nn.Embedding, nn.EmbeddingBag))]
    if rows:
        generator = torch.Generator().manual_seed(seed)
        tried += [
            tuple(torch.randint(0, min(rows), x.shape, generator=generator) if whole else x for x, whole in pairs)
            for inputs in tuple(tried)
            for pairs in (list(zip(inputs, places, strict=True)) for places in _places(len(inputs)))
        ]
    if len(tried) == 1:
        return first
    running: tuple[Tensor, ...] | None = None
    for inputs in tried:
        if _runs(model, inputs):
            if _runs(model, tuple(torch.cat([x, x]) for x in inputs)):
                return inputs
            running = running or inputs
    return running or first


def _places(inputs: int) -> list[tuple[bool, ...]]:
    """Which of the inputs may be numbers of words: all, or some of a few."""
    choices = itertools.product((True, False), repeat=inputs) if inputs <= 3 else [(True,) * inputs]
    return [places for places in choices if any(places)]


def _runs(model: nn.Module, inputs: tuple[Tensor, ...]) -> bool:
    try:
        with torch.no_grad():
            model(*inputs)
    except Exception:  # noqa: BLE001 - the user's own code, on inputs that may not be meant
        return False
    return True


def random_inputs(shapes: tuple[tuple[int, ...], ...], seed: int = 0) -> tuple[Tensor, ...]:
    """Standard normal inputs of these shapes."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(shape, generator=generator) for shape in shapes)


def check_runs(model: nn.Module, inputs: tuple[Tensor, ...], name: str) -> None:
    """Raise InvalidInput if ``model`` does not run on ``inputs`` or yields values that are not finite."""
    _require_as_many(model, inputs, name)
    try:
        with torch.no_grad():
            output = model(*inputs)
    except Exception as error:
        shapes = ", ".join(str(tuple(x.shape)) for x in inputs)
        raise InvalidInput(f"model {name}: does not run on inputs of shape {shapes}: {_why(error)}") from error
    tensors = list(tensors_in(output))
    if not tensors:
        raise InvalidInput(f"model {name}: its forward returns a {type(output).__name__}, expected tensors")
    if not all(math.isfinite(float(t.double().abs().max())) for t in tensors if t.numel() and not t.is_complex()):
        raise InvalidInput(f"model {name}: its output is not finite (NaN or infinity) on the example inputs")


def tensors_in(result: object) -> Iterator[Tensor]:
    """The tensors in what a network returns, in order, however they are nested."""
    if isinstance(result, Tensor):
        yield result
    elif isinstance(result, (Mapping, list, tuple)):
        for part in result.values() if isinstance(result, Mapping) else result:
            yield from tensors_in(part)


def _require_as_many(model: nn.Module, inputs: tuple[Tensor, ...], name: str) -> None:
    """Raise InvalidInput if the network's forward takes another number of inputs."""
    try:
        signature = inspect.signature(model.forward)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(*inputs)
    except TypeError:
        takes = ", ".join(signature.parameters) or "none"
        raise InvalidInput(
            f"model {name}: its forward takes {len(signature.parameters)} inputs ({takes}), and {len(inputs)} "
            f"{'was' if len(inputs) == 1 else 'were'} given; give --input-shape once for each"
        ) from None


_SHAPES = re.compile(r"size|shape|dimension|channel|mat1|D input|to unpack|out of range|broadcast", re.IGNORECASE)
_TYPES = re.compile(r"dtype|scalar type|should be the same|expected .* but (found|got) .*(Float|Half|Long|Tensor)")


def _why(error: Exception) -> str:
    """What an error in a network's forward says: the user's line that it comes from, and what may be done."""
    first = next(iter(str(error).strip().splitlines()), "")
    reason = f"{type(error).__name__}: {first}" if first else type(error).__name__
    ours = (str(Path(__file__).parent.parent), str(Path(torch.__file__).parent))
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith((*ours, "<"))]
    place = f" at {frames[-1].filename}:{frames[-1].lineno}: {frames[-1].line}" if frames else ""
    if not isinstance(error, (RuntimeError, ValueError, IndexError, AssertionError)):
        return f"{reason}{place}; mend it there" if place else reason
    if _TYPES.search(first):
        return f"{reason}{place}; give a network in float32, as with .float(), whose inputs are float32 too"
    advice = "; check --input-shape and the data" if _SHAPES.search(first) or not place else "; mend it there"
    return f"{reason}{place}{advice}"
