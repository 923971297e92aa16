"""The nouns that every stage shares: Stage, Result, Edit, Skip and Context."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol, get_args, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from torch import Tensor, nn

from .clock import Clock
from .errors import InvalidInput
from .parametrized import bake, keep_no_graph

if TYPE_CHECKING:
    from .data import Data
    from .integers.encoding import Encoding

EditKind = Literal["attribute", "tensor", "module", "precision", "weights"]


Samples = Annotated[int, Field(ge=1, le=2**31 - 1)]
"""A number of samples, or of anything that each takes a while."""
Threads = Annotated[int, Field(ge=1, le=1024)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
Times = Annotated[float, Field(gt=1, le=1e9)]
"""How many times less there is to be of something."""


class Config(BaseModel):
    """A frozen, validated configuration: an unknown key is an error, and so is a value out of range.

    Every number has its least and its largest value, and is finite. Messages about several settings have their names in
    backquotes, so that a command can tell them as its options.
    """

    HEADING: ClassVar[str] = "Options"
    """Above its options in ``--help``."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _truth_is_no_number(cls, value: object, info: ValidationInfo) -> object:
        if isinstance(value, bool) and not _admits_truth(cls.model_fields[info.field_name or ""].annotation):
            raise ValueError(f"expected another value than {str(value).lower()}")
        return value


def _admits_truth(annotation: Any) -> bool:
    return annotation is bool or any(_admits_truth(inner) for inner in get_args(annotation))


class Findings(BaseModel):
    """What a measurement found, as its file keeps it: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True)
class Edit:
    """One thing that a stage changed in a network.

    ``kind`` says how the edit is replayed on a freshly built network:

    - ``attribute``: ``layer.what = after``, as in ``("layer1.0.conv1", "out_channels", 16, 10)``;
    - ``tensor``: the parameter or buffer ``layer.what`` has the shape ``after``, where ``before`` was; along dimension
      ``axis`` the indices ``kept`` stay. Where ``before`` is None the tensor is new (a bias from folding), and where
      ``after`` is None it is gone;
    - ``module``: the module ``layer`` was a ``before`` and is an ``after`` ("Identity");
    - ``precision``: the tensor ``layer.what`` is held in ``after`` ("int8") in the exported file, nothing to replay;
    - ``weights``: values changed, shapes did not, nothing to replay.
    """

    layer: str
    what: str
    before: object
    after: object
    kind: EditKind = "attribute"
    axis: int | None = None
    kept: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Skip:
    """A layer that a stage left alone, and why."""

    layer: str
    reason: str


@dataclass(frozen=True)
class Measured:
    """A choice of a stage that rests on latencies, and where these were taken: right there, not on every device.

    Args:
        choice: what was chosen ("the layers that compute in float").
        told: what it cost and gained, in words.
        target: whose files were timed.
        engine: that ran them.
        cpu: the processor that they ran on.
        threads: that one operation could use.
    """

    choice: str
    told: str
    target: str
    engine: str
    cpu: str
    threads: int

    @classmethod
    def by(cls, clock: Clock, choice: str, told: str) -> Measured:
        """A choice by the latencies of ``clock``."""
        return cls(choice, told, clock.target, clock.engine, clock.processor, clock.threads)

    def __str__(self) -> str:
        where = f"{self.engine} on {self.cpu}, {self.threads} {'thread' if self.threads == 1 else 'threads'}"
        return f"{self.told}; measured for {self.target} in {where}"


@dataclass(frozen=True)
class Result:
    """What a stage returns: the network and an account of what was done and what was not.

    Measuring is the runner's work: a stage never reports its own cost or accuracy. ``history`` has a record per epoch
    of what :func:`compress.train.fit` saw, where weights were fitted. ``measured`` tells choices by latency.
    """

    model: nn.Module
    edits: tuple[Edit, ...] = ()
    skipped: tuple[Skip, ...] = ()
    encodings: Mapping[str, Encoding] = field(default_factory=dict)
    history: tuple[Mapping[str, float], ...] = ()
    measured: tuple[Measured, ...] = ()


class Progress(Protocol):
    """Told how far a task is: ``progress("train", 3, 10, "loss 0.4")``. Called often; must be cheap."""

    def __call__(self, task: str, done: int, total: int, note: str = "") -> None: ...


def silent(task: str, done: int, total: int, note: str = "") -> None:
    """A progress that says nothing."""


@dataclass(frozen=True)
class Context:
    """What a stage may use.

    Args:
        example_inputs: one tensor per input of the network, batch first, as ``model(*example_inputs)`` takes them.
        data: the data set, its splits kept apart; stages that train or calibrate need it.
        teacher: the network that fine-tuning distils from, in evaluation mode.
        seed: of everything random.
        progress: told how far a stage is.
        checkpoints: a folder for the states of interrupted trainings, or None.
        clock: tells how long networks take, to stages that choose by latency or by the size of files.
    """

    example_inputs: tuple[Tensor, ...]
    data: Data | None = None
    teacher: nn.Module | None = None
    seed: int = 0
    progress: Progress = silent
    checkpoints: str | None = None
    clock: Clock | None = None

    def require_clock(self, why: str) -> Clock:
        """The clock.

        Args:
            why: it is needed, as "quantize: what is slower in integers is measured".

        Raises:
            InvalidInput: there is none; says how to give one.
        """
        if self.clock is None:
            raise InvalidInput(
                f"{why}, and the context has no clock; give one: Context(..., clock=compress.MachineClock())"
            )
        return self.clock


@runtime_checkable
class Stage(Protocol):
    """A frozen configuration with one verb."""

    def apply(self, model: nn.Module, context: Context) -> Result:
        """Return a changed network; the one given is left as it was."""
        ...


Objective = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""A training loss: ``objective(model, x, y)`` is a scalar."""


def evaluation_copy(model: nn.Module) -> nn.Module:
    """A deep copy in evaluation mode, its parametrized weights stored: stages work on copies."""
    keep_no_graph(model)
    made = copy.deepcopy(model).eval()
    bake(made, of=model)
    return made
