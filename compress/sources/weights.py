"""Weights that people have: the file is read, and its tensors are put into a network by name.

What trainers wrap around a network is taken off. A state dict is looked for in the file itself, then in what the file
holds under :data:`PLACES`, then under any other key, and so on inward; averages (:data:`AVERAGES`) come last. In each
one the network's names are tried

1. as they are,
2. below a prefix, as ``model.`` of Lightning or ``module.`` of DataParallel; tensors beside that prefix are left out,
   with a note,
3. without a prefix that all of the network's own names have,
4. and all of this again without the names of wrappers (:data:`WRAPPERS`), wherever they stand.

The first that has every tensor of the network in its shape, and no other, is taken. Where none has, state dicts of
parts of the network, as ``{"backbone": ..., "head": ...}``, are put together.
"""

from __future__ import annotations

import copy
import difflib
import logging
import pickle
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ..errors import InvalidInput
from ..files.untrusted import require_file
from ..graph.parametrized import bake, is_parametrized, keep_no_graph
from ..siblings import users_imports

PLACES = ("state_dict", "model_state_dict", "model", "net", "network", "weights", "module", "params")
"""The keys under which checkpoints hold a state dict, in the order in which they are looked at."""

AVERAGES = re.compile(r"(^|[._])(ema|averaged?|swa|shadow|teacher|momentum|target|encoder_k)([._]|$)")
"""Keys and prefixes of moving averages, and of other networks than the trained one: what they hold comes last."""

WRAPPERS = frozenset(
    {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module", "_module"}
)
"""Names of wrapping modules: DataParallel, torch.compile, FSDP, activation checkpoints, Lightning Fabric."""

PREFIXES = ("module.", "model.", "net.", "network.", "_orig_mod.")
"""Prefixes that are preferred where a file holds the network under several."""

BOOKKEEPING = ("num_batches_tracked", "total_ops", "total_params", "n_averaged", "_extra_state")
"""Last parts of names that tell nothing of what the network computes: they may be missing, or there in vain."""

DEPTH = 6
"""How far inward a state dict is looked for."""

_SHOWN = 3
"""Names that a message tells, of many."""

_COMPARED = 100
"""Names that are compared to find the nearest one, which takes the product of their numbers."""

_LOG = logging.getLogger(__name__)


class OtherNetwork(InvalidInput):
    """Weights whose names or shapes are those of another network."""


class _OtherShapes(OtherNetwork):
    """Weights that have the network's names, and other shapes."""


@dataclass(frozen=True)
class _Match:
    """How a state dict fits a network.

    Args:
        place: of the state dict in its file; "" is the file itself.
        prefix: of the names that are meant, "" for all.
        names: the name in the file, by the name in the network.
        missing: names of the network that have none.
        unknown: names in the file that are none of the network's.
        aside: names in the file that are beside the prefix.
    """

    place: str
    prefix: str
    names: Mapping[str, str]
    missing: tuple[str, ...]
    unknown: tuple[str, ...]
    aside: tuple[str, ...]

    @property
    def whole(self) -> bool:
        return not self.missing and not self.unknown

    @property
    def address(self) -> str:
        """What names it behind the colon of ``checkpoint.pt:...``."""
        return f"{self.place}.{self.prefix}".strip(".")

    def __str__(self) -> str:
        return f"{self.place!r}" if self.place else "the file"


def load_weights(model: nn.Module, path: Path, *, trust: bool = False, imports: Path | None = None) -> Path:
    """Put the weights of a file into ``model``: safetensors, or what ``torch.save`` wrote. Returns the file.

    ``checkpoint.pt:model_ema`` names one of several state dicts in a file by its keys, with dots, and a prefix behind
    them where the names in it have several, as ``checkpoint.pt:state_dict.encoder``.

    Args:
        trust: allow a pickle that may run code of its author's.
        imports: the folder that a pickle's code is imported from; else the current one.

    Raises:
        OtherNetwork: the names or shapes are those of another network; ``model`` is as it was.
        InvalidInput: missing, damaged, a pickle without ``trust``, not finite, or tensors of a kind that no network's
            weights have.
    """
    file, _, wanted = (path, "", "") if path.exists() else _split(path)
    require_file(file, "weights")
    where = f"weights {path}"
    loaded = _read(file, where, trust, imports or Path.cwd())
    states = dict(_states(loaded))
    if wanted:
        named = states.get(wanted) or _below(states, f"{wanted}.")
        if not named:
            raise InvalidInput(f"{where}: it holds no state dict {wanted!r}; it has {_few([k for k in states if k])}")
        states = {wanted: named}
    if not states:
        raise InvalidInput(f"{where}: expected a state dict of tensors, got {_told(loaded)}")
    try:
        _fill(model, states, where)
    except _OtherShapes:
        raise
    except OtherNetwork:
        stored = _stored(model)
        if stored is None:
            raise
        _fill(stored, states, where)  # of the network after its parametrizations were taken off
        bake(model)
        model.load_state_dict(stored.state_dict())
    require_finite(model, where)
    return file


def _below(states: Mapping[str, Mapping[str, Any]], prefix: str) -> dict[str, Any]:
    """What has ``prefix`` before its name, with its place, without it."""
    addressed = {
        f"{place}.{name}".lstrip("."): value for place, state in states.items() for name, value in state.items()
    }
    return {name.removeprefix(prefix): value for name, value in addressed.items() if name.startswith(prefix)}


def _stored(model: nn.Module) -> nn.Module | None:
    """A copy of ``model`` without parametrizations, if it has some."""
    if not is_parametrized(model):
        return None
    keep_no_graph(model)
    stored = copy.deepcopy(model)
    bake(stored, of=model)
    return stored


def _split(path: Path) -> tuple[Path, str, str]:
    file, colon, wanted = str(path).rpartition(":")
    return (Path(file), colon, wanted) if colon and Path(file).is_file() else (path, "", "")


def require_finite(model: nn.Module, where: str) -> None:
    """Raise InvalidInput naming the first value in the state dict of ``model`` that is no tensor of finite numbers.

    A buffer may hold infinity, as the masks of attention do, where it is no statistic of a normalization.
    """
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    for name, tensor in model.state_dict().items():
        if isinstance(tensor, Tensor) and is_lazy(tensor):
            continue  # the first run makes it
        if problem := _kind_problem(tensor, tensor):
            raise InvalidInput(f"{where}: {name} {problem}")
        if not tensor.is_floating_point() or bool((finite := torch.isfinite(tensor)).all()):
            continue
        if name in parameters or name.endswith(("running_mean", "running_var")) or bool(tensor.isnan().any()):
            bad = int((~finite).sum())
            raise InvalidInput(f"{where}: {name} holds {bad} values that are not finite (NaN or infinity)")


def _fill(model: nn.Module, states: Mapping[str, Mapping[str, Any]], where: str) -> None:
    """Load the first of ``states``, by place, that fits ``model``."""
    own = {name: tensor for name, tensor in model.state_dict(keep_vars=True).items() if isinstance(tensor, Tensor)}
    problem = other_shapes = ""
    nearest: _Match | None = None
    fitting: list[_Match] = []
    for place, state in states.items():
        for match in _matches(own, state, place):
            if nearest is None or len(match.names) > len(nearest.names):
                nearest = match
            if not match.whole or any(match.place == o.place and _share_a_name(match, o) for o in fitting):
                continue
            if found := _unusable(match, own, state):
                problem = problem or found
            elif found := _other_shapes(match, own, state):
                other_shapes = other_shapes or found
            else:
                fitting.append(match)
    if fitting:
        match = fitting[0]
        tensors = {name: states[match.place][found] for name, found in match.names.items()}
        model.load_state_dict(tensors, strict=False)
        _note(match, fitting[1:], where)
    elif problem:
        raise InvalidInput(f"{where}: {problem}")
    elif other_shapes:
        raise _OtherShapes(f"{where}: {other_shapes}")
    elif not _load_as_the_network_does(model, states):
        assert nearest is not None, "every state has a match, if of no names"
        joined = _joined(states, own)
        if not any(len(names) > len(nearest.names) for names in joined.values()):
            raise OtherNetwork(f"{where}: not of this network: {_difference(nearest, own)}")
        _fill(model, joined, where)


def _share_a_name(match: _Match, other: _Match) -> bool:
    return not set(match.names.values()).isdisjoint(other.names.values())


def _joined(states: Mapping[str, Mapping[str, Any]], own: Mapping[str, Tensor]) -> dict[str, dict[str, Any]]:
    """What several of ``states`` hold, each under the name of a part of the network, where most parts are together."""
    parts = {name.partition(".")[0] for name in map(_without_wrappers, own)}
    parents = {".".join(place.split(".")[:end]) for place in states if place for end in range(place.count(".") + 1)}
    children: dict[str, dict[str, Any]] = {}
    for parent in sorted(parents, key=lambda parent: (AVERAGES.search(parent) is not None, parent)):
        inside = _below(states, f"{parent}." if parent else "")
        children[parent] = {n: value for n, value in inside.items() if _without_wrappers(n).partition(".")[0] in parts}
    most = max(children, key=lambda parent: len(children[parent]), default=None)
    return {} if most is None else {most: children[most]}


def _note(match: _Match, others: list[_Match], where: str) -> None:
    if match.aside:
        _LOG.warning(
            "%s: taken from %s*; %d tensors beside it are left out (%s)",
            *(where, match.prefix, len(match.aside), _few(sorted(match.aside))),
        )
    if others:
        _LOG.warning(
            "%s: taken from %s; it holds this network in %s too: name it to have it, as %s:%s",
            *(where, match, ", ".join(repr(other.address) for other in others)),
            *(where.removeprefix("weights ").removesuffix(f":{match.place}"), others[0].address),
        )


def _matches(own: Mapping[str, Tensor], state: Mapping[str, Any], place: str) -> Iterator[_Match]:
    """How the names in ``state`` may be meant, in the order in which they are tried; at least one."""
    for reduced in (lambda name: name, _without_wrappers):
        owns, files = {reduced(name): name for name in own}, {reduced(name): name for name in state}
        if len(owns) < len(own) or len(files) < len(state):
            continue  # what it takes off tells tensors apart
        if reduced is _without_wrappers and [*owns, *files] == [*own, *state]:
            return
        yield from _below_prefixes(owns, files, own, place)
        if common := _common_prefix(owns):
            shortened = {name.removeprefix(common): owns[name] for name in owns}
            yield from _below_prefixes(shortened, files, own, place)


def _without_wrappers(name: str) -> str:
    parts = name.split(".")
    return ".".join([part for part in parts[:-1] if part not in WRAPPERS] + parts[-1:])


def _common_prefix(names: Mapping[str, str]) -> str:
    """The longest "a.b." that all names begin with, where what it leaves are the names of several layers; or ""."""
    prefix = ""
    while True:
        first = {name[len(prefix) :].partition(".")[0] for name in names}
        longer = f"{prefix}{next(iter(first), '')}."
        if len(first) != 1 or not any("." in name[len(longer) :] for name in names):
            return prefix
        prefix = longer


def _below_prefixes(
    owns: Mapping[str, str], files: Mapping[str, str], own: Mapping[str, Tensor], place: str
) -> Iterator[_Match]:
    """The matches of names below each prefix that may be meant: all names first, the one of the most names last."""
    counts = Counter({"": 0})
    for name in files:
        starts = (0, *(dot.end() for dot in re.finditer(r"\.", name)))
        counts.update(name[:start] for start in starts if name[start:] in owns)
    needed = len({id(tensor) for name, tensor in own.items() if not name.endswith(BOOKKEEPING)})
    likely = sorted((prefix for prefix, count in counts.items() if count >= needed and prefix), key=_rank)
    for prefix in ("", *likely, counts.most_common(1)[0][0]):
        yield _match(owns, files, own, place, prefix)


def _rank(prefix: str) -> tuple[bool, int, str]:
    known = PREFIXES.index(prefix) if prefix in PREFIXES else len(PREFIXES)
    return AVERAGES.search(prefix.rstrip(".")) is not None, known, prefix


def _match(
    owns: Mapping[str, str], files: Mapping[str, str], own: Mapping[str, Tensor], place: str, prefix: str
) -> _Match:
    inside = {name.removeprefix(prefix): file for name, file in files.items() if name.startswith(prefix)}
    names = {owns[name]: file for name, file in inside.items() if name in owns}
    stored = {id(own[name]) for name in names}  # a tensor of several names may be stored under one of them
    missing = [name for name in own if name not in names and id(own[name]) not in stored]
    unknown = [file for name, file in inside.items() if name not in owns]
    aside = [file for name, file in files.items() if not name.startswith(prefix)]
    meant = [tuple(n for n in states if not n.endswith(BOOKKEEPING)) for states in (missing, unknown, aside)]
    return _Match(place, prefix, names, *meant)


def _unusable(match: _Match, own: Mapping[str, Tensor], state: Mapping[str, Any]) -> str:
    """Why values of ``state`` cannot become those of the network; "" if they can."""
    first: dict[int, str] = {}
    for name, file in match.names.items():
        tensor, value = own[name], state[file]
        if problem := _kind_problem(tensor, value):
            return f"{file} {problem}"
        twin = first.setdefault(id(tensor), file)
        if twin != file and not torch.equal(state[twin], value):
            return f"{twin} and {file} differ, and are one tensor in the network"
    return ""


def _other_shapes(match: _Match, own: Mapping[str, Tensor], state: Mapping[str, Any]) -> str:
    """The first few shapes in ``state`` that are not the network's, in words; "" if there are none."""
    others = [
        f"{file} has shape {tuple(state[file].shape)}, the network's is {tuple(own[name].shape)}"
        for name, file in match.names.items()
        if not is_lazy(own[name]) and own[name].shape != state[file].shape
    ]
    more = len(others) - _SHOWN
    return "; ".join(others[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")


def _kind_problem(tensor: Tensor, value: object) -> str:
    if not isinstance(value, Tensor):
        return f"is a {type(value).__name__}, expected a tensor"
    if value.is_nested:
        return "is a nested tensor, expected a dense one; give it as to_padded_tensor(0.0)"
    if value.layout is not torch.strided:
        return f"is a sparse tensor ({value.layout}), expected a dense one; give it as to_dense()"
    if value.is_quantized:
        return f"is a quantized tensor ({value.dtype}), expected floats; give it as dequantize()"
    if value.is_meta:
        return "is a meta tensor, which holds no values; fill the network first"
    if value.is_complex() != tensor.is_complex():
        return f"holds {value.dtype}, and the network's is {tensor.dtype}"
    if is_lazy(value):
        return "has no values yet; run the network once before"
    return ""


def _load_as_the_network_does(model: nn.Module, states: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether the network's own ``load_state_dict``, which may know older names, took one of ``states``, all of it."""
    own = model.state_dict()
    for state in states.values():
        if any(not isinstance(value, Tensor) or _kind_problem(value, value) for value in state.values()):
            continue
        if len(state.keys() & own.keys()) < len(own) // 4:
            continue  # of another network altogether
        trial = copy.deepcopy(model)
        try:
            trial.load_state_dict(dict(state))
        except Exception:  # noqa: BLE001 - the user's own code may run here, made for other weights
            continue
        model.load_state_dict(trial.state_dict())
        return True
    return False


def _difference(match: _Match, own: Mapping[str, Tensor]) -> str:
    """What is missing and what is unknown, in words."""
    missing, unknown = sorted(match.missing), sorted(match.unknown)
    text = (
        f"{len(missing)} tensors are missing ({_few(missing)}) and {len(unknown)} are unknown ({_few(unknown)}); "
        f"{match} has {len(match.names)} of its {len(own)} tensors"
    )
    text += f" below {match.prefix!r}" if match.prefix else ""
    files = {name.removeprefix(match.prefix): name for name in unknown[:_COMPARED]}
    for name in missing[:_COMPARED]:
        if near := difflib.get_close_matches(name, files, 1, 0.7):
            return f"{text}; nearest to {name} is {files[near[0]]}"
    return text


def _few(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "") if names else "none"


def _told(loaded: object) -> str:
    kind = type(loaded).__name__
    return f"{kind} of {_few([str(key) for key in loaded])}" if isinstance(loaded, Mapping) else kind


def _states(loaded: object, place: str = "", depth: int = DEPTH) -> list[tuple[str, Mapping[str, Any]]]:
    """The state dicts within ``loaded`` with their places, averages last."""
    return sorted(_within(loaded, place, depth), key=lambda item: AVERAGES.search(item[0]) is not None)


def _within(loaded: object, place: str, depth: int) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if isinstance(loaded, nn.Module):
        loaded = loaded.state_dict()
    elif isinstance(loaded, (list, tuple)):
        loaded = {str(number): item for number, item in enumerate(loaded) if not isinstance(item, Tensor)}
    if not isinstance(loaded, Mapping) or not depth:
        return
    named = {key: value for key, value in loaded.items() if isinstance(key, str)}
    if any(isinstance(value, Tensor) for value in named.values()):
        yield place, {key: value for key, value in named.items() if not isinstance(value, (Mapping, nn.Module))}
    for key in sorted(named, key=lambda key: PLACES.index(key) if key in PLACES else len(PLACES)):
        yield from _within(named[key], f"{place}.{key}".lstrip("."), depth - 1)


def _read(path: Path, where: str, trust: bool, imports: Path) -> object:
    """What a file holds."""
    if path.suffix == ".safetensors" or _looks_like_safetensors(path):
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise InvalidInput(f"{where}: not a readable safetensors file ({_first_line(error)})") from error

    def load() -> object:
        return torch.load(path, map_location="cpu", weights_only=not trust)

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old formats, and of kinds of tensors that are refused below
            if not trust:
                return load()
            with users_imports(imports):
                return load()
    except Exception as error:
        raise InvalidInput(f"{where}: {_unreadable(error, trust)}") from error


def _unreadable(error: Exception, trust: bool) -> str:
    text = str(error)
    reason = text.partition("WeightsUnpickler error:")[2] or ("" if text.startswith("Weights only") else text)
    named = re.search(r"(?:GLOBAL|global|class:?|function) ([\w.]+)", text.partition("WeightsUnpickler error:")[2])
    if "TorchScript" in text and not trust:
        return "a TorchScript archive; save the network's state_dict() instead, or add --trust if you trust its author"
    if isinstance(error, pickle.UnpicklingError) and named and not trust:
        return (
            f"a pickle that may run code when it is loaded (it names {named[1]}); give a plain state dict or "
            "safetensors, or --trust if you trust its author"
        )
    if isinstance(error, (ImportError, AttributeError)) and trust:
        return f"a pickle whose code is not found here ({_first_line(error)}); give a plain state dict"
    return (
        f"not a readable state dict: damaged, or another kind of file ({type(error).__name__}: {_first_line(reason)})"
    )


def _first_line(error: object) -> str:
    text = next(iter(str(error).strip().splitlines()), "no more is known")
    return text if len(text) < 200 else f"{text[:200]}..."


def _looks_like_safetensors(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(9)
    return len(start) == 9 and start[8:] == b"{" and 1 < int.from_bytes(start[:8], "little") <= path.stat().st_size
