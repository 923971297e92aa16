"""A selection of pruning in one file: put it in ``compress/prune/select/`` as ``late.py``.

It is then ``--select late`` on the command line, ``select: late`` in a recipe and ``Prune(select="late")`` in Python.
"""

from __future__ import annotations

from compress.core.settings import setting
from compress.prune.select import Plan, Select
from compress.prune.surgery.choose import Selection


class Late(Select):
    """The last layers lose the most: from ``first`` of the share in the first to all of it in the last."""

    first: float = setting(0.5, "The part of the share that the first layer loses.", ge=0, le=1)

    def plan(self, choice: Selection) -> Plan:
        """Units to keep of each group, by the share that the last one loses."""
        steps = max(1, len(choice.ranges) - 1)
        parts = [self.first + (1 - self.first) * place / steps for place in range(len(choice.ranges))]
        return lambda share: [
            bounds.first * (1 - share * part) for bounds, part in zip(choice.ranges, parts, strict=True)
        ]
