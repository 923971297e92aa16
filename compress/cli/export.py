"""compress export"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .. import siblings
from . import options

if TYPE_CHECKING:
    from ..deploy import Wanted
    from ..report.schema import ExportRecord
    from .session import Options

_VARYING = ", ".join(each.title for each in siblings.export.facts.formats().values() if each.sizes_vary)


@options.command("export", short_help="Write the files that engines run.")
@options.network
@options.listed(
    "--format",
    "formats",
    common=True,
    type=click.Choice([*options.FORMATS, "all"]),
    help="Of the file, as onnx,litert for several; left out, the one for --target. All are those of every engine that "
    "is installed.",
)
@click.option(
    "--target",
    type=click.Choice(options.TARGETS),
    help="The engine whose integers the file has; left out, that of the format, or ONNX Runtime on this machine.",
)
@click.option(
    "--interface",
    type=click.Choice(["float32", "int8", "uint8"]),
    default="float32",
    show_default=True,
    help="The type of inputs and outputs; integers make a file that is in integers throughout.",
)
@click.option("--layout", type=click.Choice(["nchw", "nhwc"]), default="nchw", show_default=True, help="Of images.")
@click.option(
    "--bake-preprocessing",
    is_flag=True,
    help="Take pixels as --data stores them; its scale, mean and std go into the file.",
)
@click.option("--fixed-batch", is_flag=True, help="Take batches of one sample only.")
@click.option("--dynamic-size", is_flag=True, help=f"Leave height and width of images open ({_VARYING}).")
@click.option("--opset", type=click.IntRange(7, 64), help="Of ONNX; left out, the least that is enough.")
@click.option("--simplify", is_flag=True, help="Run onnxsim on the file, kept only if its outputs stay.")
@click.option("--pack", "packed", is_flag=True, help="Also write the packed file to download, model.onnx.packed.")
@click.option(
    "--check-samples", type=click.IntRange(1, 2**20), default=256, show_default=True, help="Stored from --data."
)
@options.data
@options.output
@options.common
def command(
    formats: tuple[str, ...],
    target: Any,
    interface: Any,
    layout: Any,
    bake_preprocessing: bool,
    fixed_batch: bool,
    dynamic_size: bool,
    opset: int | None,
    simplify: bool,
    packed: bool,
    check_samples: int,
    **values: Any,
) -> None:
    """Export a network, quantized if it is, and check each file in its engine.

    A folder gets model.onnx, model.tflite, ..., export.json, and samples with what each file must give for them: of the
    test split of --data, or the stored inputs. compress check FOLDER repeats the check there, without the network.
    -o NAME.SUFFIX writes one file alone.

    \b
    Example:
      compress export out/int8 --format onnx -o out/files
      compress export out/int8 --format onnx,litert,ncnn --data digits -o out/files
      compress export out/int8 --target tensorrt -o out/tensorrt
      compress export resnet20 --weights net.safetensors --input-shape 3,32,32 -o net.onnx
    """
    from dataclasses import replace

    from .. import deploy
    from ..errors import InvalidInput
    from ..graph import one_sample
    from ..outputs import new_folder
    from ..pipeline import fold_for_export
    from ..preprocessing import bake
    from ..siblings import export
    from .session import Options

    given = Options(**values)
    assert given.output is not None, "click requires --output"
    given.claim_output()
    data = given.load_data()
    network = fold_for_export(given.open(data))
    if bake_preprocessing:
        if data is None:
            raise InvalidInput("--bake-preprocessing: give --data, whose scale, mean and std go into the file")
        network = bake(network, data.preprocessing)
    if fixed_batch:
        network = replace(network, example_inputs=one_sample(network.example_inputs))
    one = deploy.Wanted(
        None,
        target,
        simplify=simplify,
        packed=packed,
        opset=opset,
        dynamic_batch=not fixed_batch,
        dynamic_size=dynamic_size,
        interface=interface,
        layout=layout,
        labels=data.classes if data is not None else (),
    )
    output = given.output.name
    alone = [each.name for each in export.facts.formats().values() if output.endswith(each.suffix)]
    if alone and not formats and target is None:
        formats = (alone[0],)
    wanted = [replace(one, format=name) for name in _named(formats)] or [one]
    if not alone:
        with new_folder(given.output, overwrite=given.overwrite) as folder:
            records = deploy.write_folder(network, folder, wanted, data, check_samples)
    elif len(wanted) > 1 or packed or not output.endswith(deploy.suffix_of(wanted[0])):
        raise InvalidInput(f"output {given.output}: one file of this kind does not hold what was asked; give a folder")
    else:
        records = [_alone(given, network, wanted[0])]
    for record in records:
        _tell(given, record)
    given.tell(records[0] if len(records) == 1 else {"files": records})


def _named(formats: tuple[str, ...]) -> tuple[str, ...]:
    """The formats, 'all' spelled out: those that can be written, and run in an engine, here."""
    if "all" not in formats:
        return formats
    from ..siblings import export, runtimes

    known = export.facts.formats()
    available = runtimes.runtime.available
    return tuple(name for name, each in known.items() if available(each.engine)[0] is not None)


def _alone(given: Options, network: Any, wanted: Wanted) -> ExportRecord:
    """Write the file, and what belongs to it, where the output says; nothing is there before the check has passed."""
    from .. import deploy
    from ..outputs import new_files

    assert given.output is not None
    with new_files(given.output, overwrite=given.overwrite) as folder:
        path = folder / given.output.name
        return deploy.export(network, given.output.stem, path, wanted, shown=given.output.name)[0]


def _tell(given: Options, record: ExportRecord) -> None:
    from rich.text import Text

    assert record.size_bytes is not None, "an export is counted"
    nodes, parity = record.nodes, record.parity
    line = f"{record.file}: {record.size_bytes:,} bytes, {record.format} for {record.target}"
    line += f", opset {record.opset}" if record.opset else ""
    if nodes is not None:
        line += f"; as {record.engine} runs it: {nodes.integer} integer, {nodes.float} float, {nodes.other} other nodes"
    line += "; outputs checked" if parity is not None else "; NOT checked"
    given.console.print(Text(line))
    if record.packed_bytes is not None:
        given.console.print(f"packed, to download: {record.packed_bytes:,} bytes")
    for note in record.notes:
        given.console.print(Text(f"  {note}"))
