"""The one output and the labels of a batch, held to what a task says that they must be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from .reading import Reading
from .task import Batch, Outputs
from .tensors import labels_of, output_of, unfit


@dataclass(frozen=True)
class Labelled:
    """Reads an output and its labels.

    Args:
        reading: of batches.
        require: raises InvalidInput, its message begun by the text, unless an output and labels are of the task.
    """

    reading: Reading
    require: Callable[[Tensor, Tensor, str], None]

    def pair(self, outputs: Outputs, batch: Batch, where: str) -> tuple[Tensor, Tensor]:
        """The output, samples first, and the labels of as many samples.

        Raises:
            InvalidInput: they are not of the task, or of other samples; ``where`` begins the message.
        """
        output, labels = self._read(outputs, batch, where)
        if len(output) != len(labels):
            raise unfit(where, "labels of as many samples", output, labels)
        return output, labels

    def fits(self, outputs: Outputs, batch: Batch, where: str) -> None:
        """Raise InvalidInput unless they are of the task; labels may be those of more samples, as of a whole split."""
        self._read(outputs, batch, where)

    def _read(self, outputs: Outputs, batch: Batch, where: str) -> tuple[Tensor, Tensor]:
        output, labels = output_of(outputs, where), labels_of(self.reading, batch, where)
        self.require(output, labels, where)
        return output, labels
