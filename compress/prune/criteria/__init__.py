"""What makes a channel important: one criterion a file, found by its name; see :mod:`compress.core.parts`.

A criterion scores every index of a dimension of a weight (a *slice*). These scores are normalized within the layer,
averaged over the indices that a unit takes there, and aggregated over the coupled layers of the group.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from ...core.parts import Kind
from ..scoring.criterion import Criterion, weights
from ..scoring.custom import Custom

__all__ = ["CRITERIA", "AnyCriterion", "Criterion", "weights"]


def _of_user(function: object, settings: Mapping[str, object]) -> Criterion:
    return Custom.model_validate({"function": function, **settings})


CRITERIA = Kind("criterion", __name__, Criterion, _of_user)
AnyCriterion = Annotated[Criterion, CRITERIA]
"""A field's type: a criterion's name, a mapping from it to its settings, an object; or ``file.py:function`` (or
``package.module:function``) of the user's, or in Python a callable ``(weight, axis) -> scores``.
"""
