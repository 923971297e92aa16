"""What the networks of real files are fed: photographs, pages, words and sound, as their packages prepare them."""

from __future__ import annotations

import io
import sys
import tarfile
import wave
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from benchmarks.real_onnx.measure import TRAINING_FONTS, line

SOUND = "fsdd.tar.xz"
"""The Free Spoken Digit Dataset, CC BY-SA 4.0."""
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Calls:
    """A split whose batches are calls of a network, whole and in order: tensors without labels."""

    calls: list[tuple[Tensor, ...]]

    def __len__(self) -> int:
        return len(self.calls)

    def batches(self, batch_size: int, **_: Any) -> Iterator[tuple[tuple[Tensor, ...], None]]:
        """Every call by itself, whatever size is asked for."""
        for call in self.calls:
            yield call, None


def session(path: Path) -> Any:
    """The file in ONNX Runtime, on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def photographs(count: int, height: int, width: int) -> Floats:
    """Cuts of the two photographs of scikit-learn, (count, 3, height, width), 0 to 255."""
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(0)
    made = np.zeros((count, 3, height, width), np.float32)
    images = load_sample_images().images
    for number in range(count):
        image = Image.fromarray(images[number % len(images)])
        part = rng.uniform(0.4, 1.0)
        across, down = int(image.width * part), int(image.height * part)
        left, top = int(rng.integers(0, image.width - across + 1)), int(rng.integers(0, image.height - down + 1))
        cut = image.crop((left, top, left + across, top + down)).resize((width, height), Image.Resampling.BILINEAR)
        made[number] = np.asarray(cut, np.float32).transpose(2, 0, 1)
    return made


def pages(count: int, height: int, width: int) -> Floats:
    """Pages of a few lines of text, (count, 3, height, width), 0 to 255."""
    rng = np.random.default_rng(1)
    made = np.full((count, 3, height, width), 255, np.float32)
    for page in made:
        for top in range(8, height - 48, int(rng.integers(56, 90))):
            text = (line(rng, TRAINING_FONTS)[:, : width - 16] + 1) * 127.5
            left = int(rng.integers(4, max(5, width - text.shape[1] - 4)))
            page[:, top : top + 48, left : left + text.shape[1]] = text.transpose(2, 0, 1)
    return made


def words(count: int, width: int) -> Floats:
    """Single lines of text, (count, 3, 48, width), -1 to 1, with 0 behind their end."""
    rng = np.random.default_rng(2)
    made = np.zeros((count, 3, 48, width), np.float32)
    for image in made:
        text = line(rng, TRAINING_FONTS)[:, :width]
        image[:, :, : text.shape[1]] = text.transpose(2, 0, 1)
    return made


@cache
def recordings(archive: Path) -> dict[str, bytes]:
    """The sound files of an archive by their names, read in one pass: a compressed one is slow to go back in."""
    with tarfile.open(archive, "r|*") as opened:
        sounds = (member for member in opened if member.name.endswith(".wav"))
        return {member.name: stored.read() for member in sounds if (stored := opened.extractfile(member)) is not None}


def speech(folder: Path, count: int, samples: int, rate: int) -> Floats:
    """Spoken digits of the archive in ``folder`` one after the other, (count, samples) of -1 to 1 at ``rate``."""
    heard: list[Floats] = []
    needed = count * samples * 8000 // rate + 8000
    for _, stored in sorted(recordings(folder / SOUND).items(), key=lambda item: item[0][::-1]):
        with wave.open(io.BytesIO(stored)) as sound:
            stored_values = np.frombuffer(sound.readframes(sound.getnframes()), "<i2")
        heard.append(stored_values.astype(np.float32) / np.float32(32768))
        if sum(map(len, heard)) > needed:
            break
    signal = np.concatenate(heard)
    places = np.arange(count * samples) * (8000 / rate)
    values: Floats = np.interp(places, np.arange(len(signal)), signal).astype(np.float32)
    return values.reshape(count, samples)


def contents(count: int, length: int) -> NDArray[np.int32]:
    """Begin and end of files of Python's own folder, (count, length), bytes as integers, 256 where there is none."""
    folder = Path(sys.base_prefix) / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size > 200]
    chosen = np.random.default_rng(3).choice(len(files), count, replace=False)
    made = np.full((count, length), 256, np.int32)
    half = length // 2
    for row, place in zip(made, chosen, strict=True):
        content = files[place].read_bytes().strip()
        begin, end = content[:half], content[-half:]
        row[: len(begin)] = list(begin)
        row[length - len(end) :] = list(end)
    return made
