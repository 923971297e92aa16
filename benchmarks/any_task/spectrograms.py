"""The Free Spoken Digit Dataset as logarithmic mel spectrograms."""

from __future__ import annotations

import wave
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.signal import stft

RATE, WINDOW, HOP = 8000, 200, 80
BANDS, STEPS = 40, 64
"""Of a spectrogram; longer recordings are cut, shorter ones are followed by silence."""


def spoken_digits(folder: Path) -> dict[str, NDArray[Any]]:
    """Spectrograms ``x_train`` (N, 40, 64), ``y_train`` (N,) and so on: takes 0 to 4 of each speaker and digit are to
    test on, as the authors of the data split them, and 5 to 9 to choose by.
    """
    files = sorted((folder / "fsdd" / "recordings").glob("*.wav"))
    if not files:
        raise FileNotFoundError(folder / "fsdd" / "recordings")
    takes = np.array([int(file.stem.split("_")[2]) for file in files])
    digits = np.array([int(file.stem.split("_")[0]) for file in files])
    sounds = np.stack([spectrogram(file) for file in files])
    of = {"test": takes < 5, "validation": (takes >= 5) & (takes < 10), "train": takes >= 10}
    sounds = (sounds - sounds[of["train"]].mean()) / sounds[of["train"]].std()
    return {f"{letter}_{name}": a[rows] for name, rows in of.items() for letter, a in (("x", sounds), ("y", digits))}


def spectrogram(file: Path) -> NDArray[np.float32]:
    """The logarithm of the energy of a recording in each band and step, (40, 64)."""
    with wave.open(str(file)) as sound:
        samples = np.frombuffer(sound.readframes(sound.getnframes()), "<i2").astype(np.float64) / 32768
    padded = np.zeros(HOP * (STEPS - 1))
    padded[: len(samples)] = samples[: len(padded)]
    _, _, spectrum = stft(padded, RATE, nperseg=WINDOW, noverlap=WINDOW - HOP, nfft=256)
    energies = _bands(spectrum.shape[0]) @ np.abs(spectrum[:, :STEPS]) ** 2
    loudness: NDArray[np.float32] = np.log(energies + 1e-9).astype(np.float32)
    return loudness


def _bands(frequencies: int) -> NDArray[np.float64]:
    """Triangular filters (40, frequencies), their centres evenly spread on the mel scale (O'Shaughnessy, 1987)."""
    top = 2595 * np.log10(1 + RATE / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, BANDS + 2) / 2595) - 1)
    at = np.linspace(0, RATE / 2, frequencies)
    rising = (at - edges[:-2, None]) / (edges[1:-1, None] - edges[:-2, None])
    falling = (edges[2:, None] - at) / (edges[2:, None] - edges[1:-1, None])
    return np.clip(np.minimum(rising, falling), 0, None)
