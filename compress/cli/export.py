"""compress export"""

from __future__ import annotations

from typing import Any

import click

from . import options


@click.command("export", short_help="Write the file that an engine runs.")
@options.network
@click.option("--format", "file_format", type=click.Choice(["onnx"]), default="onnx", show_default=True)
@click.option(
    "--target",
    type=click.Choice(["ort-x86", "ort-avx2", "ort-arm", "tensorrt", "litert", "openvino", "ncnn"]),
    help="The engine whose integers the file has; left out, ONNX Runtime on a machine like this one.",
)
@click.option("--simplify", is_flag=True, help="Run onnxsim on the file, kept only if its outputs stay.")
@click.option("--pack", "packed", is_flag=True, help="Also write the packed file to download, model.onnx.packed.")
@options.data
@options.output
@options.common
def command(file_format: str, target: Any, simplify: bool, packed: bool, **values: Any) -> None:
    """Export a network, quantized if it is, and check the file in its engine; -o NAME.onnx writes the file alone.

    A folder gets model.onnx, export.json, and the inputs and outputs that it was checked with.

    \b
    Example:
      compress export out/int8 --format onnx -o out/files
      compress export out/int8 --target tensorrt -o out/tensorrt
      compress export resnet20 --weights net.safetensors --input-shape 3,32,32 -o net.onnx
    """
    from pathlib import Path

    import numpy as np
    from rich.text import Text

    from .. import deploy
    from ..artifact import new_folder, require_free
    from ..errors import InvalidInput
    from ..pipeline import fold_for_export
    from ..report.schema import ExportRecord
    from .session import Options

    given = Options(**values)
    assert given.output is not None, "click requires --output"
    require_free(given.output, overwrite=given.overwrite)
    if packed and given.output.suffix == ".onnx":
        raise InvalidInput(f"output {given.output}: --pack writes two files; give a folder, or run compress pack after")
    network = fold_for_export(given.open(given.load_data()))
    name = f"model.{file_format}"

    def write(folder: Path) -> ExportRecord:
        return deploy.export(
            network,
            given.specification(),
            folder / name,
            target=target,
            simplify=simplify,
            shown=name,
            packed=packed,
        )

    if given.output.suffix == ".onnx":
        with new_folder(given.output, overwrite=given.overwrite) as folder:
            record = write(folder)
            single = folder.with_name(f"{folder.name}.onnx")
            (folder / name).rename(single)
            folder.rmdir()
            single.rename(folder)
    else:
        with new_folder(given.output, overwrite=given.overwrite) as folder:
            record = write(folder)
            (folder / "export.json").write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")
            expected = deploy.reference(network, target)(*network.example_inputs)
            for file, tensors in (("inputs.npz", network.example_inputs), ("expected.npz", expected)):
                np.savez(folder / file, **{f"{i:03}": t.numpy() for i, t in enumerate(tensors)})  # type: ignore[arg-type]
    nodes = record.nodes
    assert nodes is not None and record.size_bytes is not None, "an export is counted"
    given.console.print(
        Text(
            f"{given.output}: {record.size_bytes:,} bytes for {record.target}, opset {record.opset}; "
            f"as ONNX Runtime runs it: {nodes.integer} integer, {nodes.float} float, {nodes.other} other nodes; "
            "outputs checked"
        )
    )
    if record.packed_bytes is not None:
        given.console.print(f"packed, to download: {record.packed_bytes:,} bytes")
    for note in record.notes:
        given.console.print(Text(f"  {note}"))
    given.tell(record)
