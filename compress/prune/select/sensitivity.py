"""What costs every group the same accuracy when it alone is pruned."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from ...core.settings import setting
from ...files.outputs import write_text
from ...stage import Context
from ..channels.groups import Channels
from ..criteria import Criterion
from ..surgery.choose import Selection
from ..surgery.goal import Curve, Key
from . import Plan, Select


class Sensitivity(Select):
    """Every layer loses what costs the same accuracy when it alone is pruned, as measured on the validation split."""

    file: Path | None = setting(
        None,
        "What compress sensitivity wrote for this network; left out, the network is scanned.",
        flag="--sensitivity-file",
    )

    of_units: ClassVar[bool] = False

    @property
    def needs_data(self) -> bool:
        """Whether the network is scanned."""
        return self.file is None

    def curves(
        self, channels: Channels, criterion: Criterion, exclude: tuple[str, ...], context: Context
    ) -> Mapping[Key, Curve]:
        """The accuracy that each group costs by the share that is gone, from the file or scanned now."""
        from .. import sensitivity

        if self.file is not None:
            return sensitivity.Sensitivity.read(self.file).curves(channels)
        record = Path(context.checkpoints, "prune-sensitivity.json") if context.checkpoints is not None else None
        if record is not None and record.exists():
            return sensitivity.Sensitivity.read(record).curves(channels)
        scan = sensitivity.Scan(criterion=criterion, exclude=exclude)
        scanned = scan.measure(channels.graph.model, context)
        if record is not None:
            write_text(record, scanned.model_dump_json(indent=1), overwrite=True)
        return scanned.curves(channels)

    def plan(self, choice: Selection) -> Plan:
        """The share of the greatest accuracy that any group can cost; a group that has no curve keeps its units."""
        most = max(curve.most for curve in choice.curves if curve is not None)
        return lambda share: [
            bounds.first * (1 - (0.0 if curve is None else curve.share(share * most)))
            for bounds, curve in zip(choice.ranges, choice.curves, strict=True)
        ]
