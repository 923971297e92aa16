"""Parametrized weights, put in place of what computes them: every stage works on weights that are stored.

Spectral norm, weight norm, orthogonal weights and parametrizations of a user's own compute a weight from other tensors
each time that it is read. For compression only its values count, as they are in evaluation.
"""

from __future__ import annotations

import copy
import logging
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune, remove_spectral_norm
from torch.nn.utils.spectral_norm import SpectralNorm, SpectralNormLoadStateDictPreHook
from torch.nn.utils.weight_norm import WeightNorm

from ..errors import InvalidInput

_LOG = logging.getLogger(__name__)
_told: WeakSet[nn.Module] = WeakSet()
_SHOWN = 3


def evaluation_copy(model: nn.Module) -> nn.Module:
    """A deep copy in evaluation mode, its parametrized weights stored: stages work on copies."""
    keep_no_graph(model)
    made = copy.deepcopy(model).eval()
    bake(made, of=model)
    return made


def bake(model: nn.Module, of: nn.Module | None = None, *, tell: bool = True) -> tuple[str, ...]:
    """Store every parametrized tensor of ``model``, in place; returns which, with what computed each.

    What the network computes in evaluation mode stays. One note tells of it.

    Args:
        of: the network that ``model`` is a copy of, of which the note is told once.
        tell: give that note.

    Raises:
        InvalidInput: the code of a parametrization fails.
    """
    baked: list[str] = []
    for layer, module in list(model.named_modules()):
        training, module.training = module.training, False
        with torch.enable_grad():
            computed = _bake_module(module, layer)
        module.training = training
        baked += [f"{layer}.{name}".lstrip(".") + f" ({kind})" for name, kind in computed]
    about = model if of is None else of
    if tell and baked and about not in _told:
        _told.add(about)
        more = f" and {len(baked) - _SHOWN} more" if len(baked) > _SHOWN else ""
        _LOG.warning(
            "%d tensors are computed by parametrizations; they are stored as they are now, and training goes on "
            "without: %s%s",
            *(len(baked), ", ".join(baked[:_SHOWN]), more),
        )
    return tuple(baked)


def _bake_module(module: nn.Module, layer: str) -> list[tuple[str, str]]:
    """Store the tensors of one module; the name of each, and of what computed it."""
    baked: list[tuple[str, str]] = []
    if parametrize.is_parametrized(module):
        _own_class(module)
        lists = module.parametrizations
        assert isinstance(lists, nn.ModuleDict)
        for name in list(lists):
            lists[name].eval()
            _require_computed(module, name, layer)
            kinds = [type(part).__name__.strip("_") for part in lists[name].children()]
            originals = [tensor for key, tensor in lists[name]._parameters.items() if key.startswith("original")]
            parametrize.remove_parametrizations(module, name, leave_parametrized=True)
            if originals and name in module._buffers:  # torch makes a buffer of what no gradient is asked of
                value = module._buffers.pop(name)
                assert value is not None, name
                module.register_parameter(name, nn.Parameter(value.detach().clone(), requires_grad=False))
            baked.append((name, ", ".join(kinds)))
    for hook in list(module._forward_pre_hooks.values()):
        if isinstance(hook, (WeightNorm, SpectralNorm)):
            if isinstance(hook, WeightNorm):
                nn.utils.remove_weight_norm(module, hook.name)
            else:
                remove_spectral_norm(module, hook.name)
                _forget_loading(module, hook)
            baked.append((hook.name, type(hook).__name__))
        elif isinstance(hook, prune.BasePruningMethod):
            name = hook._tensor_name
            prune.remove(module, name)
            baked.append((name, f"masked by torch.nn.utils.prune.{type(hook).__name__}"))
    return baked


def _forget_loading(module: nn.Module, norm: SpectralNorm) -> None:
    """Take off what reads a spectral norm's own tensors from state dicts, which torch leaves behind."""
    for key, hook in list(module._load_state_dict_pre_hooks.items()):
        reader = getattr(hook, "hook", hook)  # torch wraps it
        if isinstance(reader, SpectralNormLoadStateDictPreHook) and reader.fn.name == norm.name:
            del module._load_state_dict_pre_hooks[key]


def _require_computed(module: nn.Module, name: str, layer: str) -> None:
    """Raise InvalidInput if a parametrized tensor cannot be computed: its code may be the user's."""
    try:
        getattr(module, name)
    except Exception as error:
        raise InvalidInput(
            f"layer {layer}: the parametrization of its {name} fails ({type(error).__name__}: {error}); take it "
            "off with torch.nn.utils.parametrize.remove_parametrizations"
        ) from error


def _own_class(module: nn.Module) -> None:
    """Give a parametrized module a class of its own: copies share theirs, and what is taken off one, all would lose."""
    shared = type(module)
    own = {name: value for name, value in vars(shared).items() if name not in ("__dict__", "__weakref__")}
    module.__class__ = type(shared.__name__, shared.__bases__, own)


def keep_no_graph(model: nn.Module) -> None:
    """Detach tensors that modules keep from their last run, in place: with the graph behind them none can be copied."""
    for module in model.modules():
        for name, value in vars(module).items():
            if isinstance(value, Tensor) and value.grad_fn is not None:
                vars(module)[name] = value.detach()


def is_parametrized(model: nn.Module) -> bool:
    """Whether :func:`bake` would change something."""
    hooks = (WeightNorm, SpectralNorm, prune.BasePruningMethod)
    return any(
        parametrize.is_parametrized(module) or any(isinstance(h, hooks) for h in module._forward_pre_hooks.values())
        for module in model.modules()
    )
