"""A criterion of the user's own: a function of a weight, called on each and held to what a criterion returns."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any

from pydantic import SerializerFunctionWrapHandler, model_serializer
from torch import Tensor, nn

from ...core.settings import required
from ...errors import InvalidInput
from ...stage import Context
from ..channels.labels import Site
from .criterion import Criterion

Function = Callable[[Tensor, int], Tensor]
"""``criterion(weight, axis)``: the scores of the slices of a weight along a dimension, (weight.shape[axis],)."""


class Custom(Criterion):
    """``function(weight, axis)`` scores the slices of a weight."""

    function: Annotated[str | Function, required("A callable, or file.py:function or package.module:function.")]

    @property
    def name(self) -> str:
        """What it was named as, or module and name of a callable."""
        if isinstance(self.function, str):
            return self.function
        name = getattr(self.function, "__qualname__", type(self.function).__qualname__)
        return f"{getattr(self.function, '__module__', type(self.function).__module__)}:{name}"

    @model_serializer(mode="wrap")
    def _written(self, _: SerializerFunctionWrapHandler) -> Any:
        """Its name, or a mapping from it to its other settings."""
        settings = {name: getattr(self, name) for name in Criterion.model_fields}
        usual = {name: field.default for name, field in Criterion.model_fields.items()}
        return self.name if settings == usual else {self.name: settings}

    def site_scores(
        self, sites: Collection[Site], model: nn.Module, tensors: Mapping[str, Tensor], context: Context
    ) -> dict[Site, Tensor]:
        """What the function returns for each weight, checked; a file that is named is run."""
        function = self.callable()
        return {site: self.checked(function, tensors[site[0]], site).cpu() for site in sites}

    def callable(self) -> Function:
        """The function, or what its name is of.

        Raises:
            InvalidInput: there is no such file or name, or it cannot be called.
        """
        if not isinstance(self.function, str):
            return self.function
        from ...sources.load import find

        try:
            function = find(self.function)
        except InvalidInput as error:
            raise InvalidInput(f"prune: criterion {self.function}: {error}") from error
        if not callable(function):
            raise InvalidInput(
                f"prune: criterion {self.function}: expected a function (weight, axis) -> scores, got "
                f"{type(function).__name__}"
            )
        own: Function = function
        return own
