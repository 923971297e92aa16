"""compress export"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .grammar import options

if TYPE_CHECKING:
    from ..deploy import Wanted
    from ..report.schema import ExportRecord
    from .session import Options


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
@options.settings("export")
@options.data
@options.output
@options.common
def command(formats: tuple[str, ...], **values: Any) -> None:
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
    from .. import deploy
    from ..errors import InvalidInput
    from ..files.outputs import new_folder
    from ..pipeline import ready_for_export, wanted
    from ..recipe import Export
    from ..siblings import export
    from .session import Options, configured, settings_of

    asked = settings_of("export", values, Export)
    call = Options(**values)
    assert call.output is not None, "click requires --output"
    call.claim_output()
    output = call.output.name
    alone = [each.name for each in export.facts.formats().values() if output.endswith(each.suffix)]
    if alone and not formats and "target" not in asked:
        formats = (alone[0],)
    files = [configured(Export, name="model", format=name, **asked) for name in _named(formats) or (None,)]
    data = call.load_data()
    network = ready_for_export(call.open(data), files[0], data)
    each_wanted = [wanted(file, data) for file in files]
    if not alone:
        with new_folder(call.output, overwrite=call.overwrite) as folder:
            records = deploy.write_folder(network, folder, each_wanted, data, files[0].check_samples, call.wanted_task)
    elif len(files) > 1 or files[0].pack or not output.endswith(deploy.suffix_of(each_wanted[0])):
        raise InvalidInput(f"output {call.output}: one file of this kind does not hold what was asked; give a folder")
    else:
        records = [_alone(call, network, each_wanted[0])]
    for record in records:
        _tell(call, record)
    call.tell(records[0] if len(records) == 1 else {"files": records})


def _named(formats: tuple[str, ...]) -> tuple[str, ...]:
    """The formats, 'all' spelled out: those that can be written, and run in an engine, here."""
    if "all" not in formats:
        return tuple(dict.fromkeys(formats))
    from ..siblings import export, runtimes

    known = export.facts.formats()
    available = runtimes.runtime.available
    return tuple(name for name, each in known.items() if available(each.engine)[0] is not None)


def _alone(call: Options, network: Any, wanted: Wanted) -> ExportRecord:
    """Write the file, and what belongs to it, where the output says; nothing is there before the check has passed."""
    from .. import deploy
    from ..files.outputs import new_files

    assert call.output is not None
    with new_files(call.output, overwrite=call.overwrite) as folder:
        path = folder / call.output.name
        return deploy.export(network, call.output.stem, path, wanted, shown=call.output.name)[0]


def _tell(call: Options, record: ExportRecord) -> None:
    from rich.text import Text

    assert record.size_bytes is not None, "an export is counted"
    nodes, parity = record.nodes, record.parity
    line = f"{record.file}: {record.size_bytes:,} bytes, {record.format} for {record.target}"
    line += f", opset {record.opset}" if record.opset else ""
    if nodes is not None:
        line += f"; as {record.engine} runs it: {nodes.integer} integer, {nodes.float} float, {nodes.other} other nodes"
    line += "; outputs checked" if parity is not None else "; NOT checked"
    call.console.print(Text(line))
    if record.packed_bytes is not None:
        call.console.print(f"packed, to download: {record.packed_bytes:,} bytes")
    for note in record.notes:
        call.console.print(Text(f"  {note}"))
