"""The nodes of a file as an engine runs them, with the time that each takes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from ...devices.device import Device
from ...errors import InvalidInputs
from ...facts import title_of
from ...runtime import ExecutedGraph
from ..loop import Progress
from ..subject import Subject


@dataclass(frozen=True)
class NodeTimes:
    """Run a file and have its engine tell the time of each node: the lower quartile of so many runs."""

    NAME: ClassVar[str] = "nodes"
    TITLE: ClassVar[str] = "times of single nodes"
    IN_PYTHON: ClassVar[bool] = True

    runs: int = 30

    def require(self, device: Device, subject: Subject) -> None:
        """Whether an engine tells such times is known when it has run."""

    def results(self, device: Device, subject: Subject, progress: Progress | None = None) -> Iterator[ExecutedGraph]:
        """Measure each file; see :class:`runtimes.measure.modes.mode.Mode`.

        Raises:
            InvalidInputs: its engine tells no time of single nodes.
        """
        for file in subject.each():
            runtime = device.load(file.paths[0], file.engines[0], file.request.options)
            try:
                graph = runtime.executed_graph(None if file.inputs is None else file.inputs[0], runs=self.runs)
            finally:
                runtime.close()
            if graph is None or not graph.duration_ms:
                title = title_of(file.engines[0])
                raise InvalidInputs(f"{file.names[0]}: {title} tells no time of single nodes; choose another format")
            yield graph
