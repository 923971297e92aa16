"""compress bench"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .grammar import options

if TYPE_CHECKING:
    from pathlib import Path

    from ..data import Data
    from ..deploy import Deployed
    from .session import Options


@options.command("bench", short_help="Time files in their engine, side by side.")
@click.argument("networks", nargs=-1)
@click.option("--model", "models", multiple=True, help="A network, where it is not an argument.")
@click.option("--weights", type=options.PATH, help="For a network that is not a file yet.")
@click.option("--trust", is_flag=True, help="Run code that weights in a pickle, or an artifact, name.")
@options.source
@options.listed(
    "--format",
    "formats",
    common=True,
    type=click.Choice(options.FORMATS),
    help="What networks that are no file yet are exported to, as onnx,litert to compare engines; ONNX if left out.",
)
@options.input_shape
@options.data
@options.settings("bench")
@click.option(
    "-o", "--output", type=options.PATH, help="Write the measurements, raw samples included, to this JSON file."
)
@options.logged
@options.common
def command(
    networks: tuple[str, ...],
    models: tuple[str, ...],
    formats: tuple[str, ...],
    log: Path | None,
    label: str | None,
    **values: Any,
) -> None:
    """Measure latency, memory and size of files in one interleaved run; with --data, accuracy on the test split.

    A network that is no file yet (an artifact, a zoo name) is exported first.

    \b
    Example:
      compress bench a.onnx b.onnx --threads 1
      compress bench out/base out/int8 --data digits --json
      compress bench out/int8 --format onnx,litert,ncnn
    """
    import tempfile
    from pathlib import Path

    from .. import deploy
    from ..compare.log import append, require_log
    from ..errors import InvalidInput
    from ..files.outputs import write_text
    from ..recipe import Benchmark
    from ..sources.load import random_inputs
    from .output.bench_table import bench_table
    from .session import Options, as_json, configured, progress_bars, settings_of

    timing = configured(Benchmark, **settings_of("bench", values, Benchmark))
    call = Options(**values)
    names = [*networks, *models]
    if not names:
        raise InvalidInput("bench: no network given; name .onnx files or networks")
    call.claim_output()
    if log is not None:
        require_log(log)
    data = call.load_data(names)
    with tempfile.TemporaryDirectory() as folder, progress_bars(call) as progress:
        files = [
            file
            for number, name in enumerate(names)
            for file in _files(name, call, data, formats, Path(folder, str(number)))
        ]
        inputs = random_inputs(call.shapes(), call.seed) if call.shapes() else None
        records = deploy.measure(files, request=timing.request, data=data, inputs=inputs, progress=progress)
    records = [record.model_copy(update={"label": label}) for record in records]
    call.console.print(bench_table(records))
    result = {"machine": deploy.machine(), "measurements": records}
    call.tell(result)
    if call.output is not None:
        write_text(call.output, as_json(result) + "\n", overwrite=call.overwrite)
    if log is not None:
        append(log, records)
    if timing.strict:
        deploy.require_valid(records)


def _files(name: str, call: Options, data: Data | None, formats: tuple[str, ...], stem: Path) -> list[Deployed]:
    """The file called ``name``; or, where that is a network, what it is exported to, in a file named after ``stem``."""
    from pathlib import Path

    from .. import deploy
    from ..pipeline import fold_for_export
    from ..siblings import runtimes

    if Path(name).suffix.lower() in runtimes.facts.suffixes():
        return [deploy.Deployed(name, Path(name))]
    network = fold_for_export(call.open_other(name, data, call.weights))
    files = []
    for wanted in [deploy.Wanted(each) for each in formats] or [deploy.Wanted()]:
        path = stem.with_name(f"{stem.name}{deploy.suffix_of(wanted)}")
        title = f"{name} ({wanted.format})" if len(formats) > 1 else name
        files.append(deploy.export(network, title, path, wanted)[1])
    return files
