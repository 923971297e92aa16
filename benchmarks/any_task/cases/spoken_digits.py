"""Which digit is spoken (Free Spoken Digit Dataset), by convolutions over time and a gated recurrent unit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from benchmarks.any_task.case import Case, adamw
from benchmarks.any_task.spectrograms import BANDS, spoken_digits
from compress.data import Data, from_arrays


class Listener(nn.Module):
    """Spectrograms (N, 40, steps) to scores of ten digits (N, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv1d(BANDS, 64, 5, padding=2), nn.BatchNorm1d(64), nn.ReLU(),
            nn.Conv1d(64, 64, 3, 2, 1), nn.BatchNorm1d(64), nn.ReLU(),
            nn.Conv1d(64, 64, 3, 2, 1), nn.BatchNorm1d(64), nn.ReLU(),
        )  # fmt: skip
        self.recurrent = nn.GRU(64, 64, batch_first=True)
        self.head = nn.Linear(64, 10)

    def forward(self, sound: Tensor) -> Tensor:
        steps, _ = self.recurrent(self.features(sound).transpose(1, 2))
        return self.head(steps.mean(1))  # type: ignore[no-any-return]


def data(folder: Path) -> Data:
    """Spectrograms and digits."""
    parts: dict[str, Any] = spoken_digits(folder)
    return from_arrays(**parts, name="spoken digits")


CASE = Case(network=f"{__name__}:Listener", task="classification", data=data, training=adamw(20), most_lost=0.5)
