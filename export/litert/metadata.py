"""Labels and facts in a file, where Android and MediaPipe look for them.

TFLite metadata: https://ai.google.dev/edge/litert/models/metadata; the schema is metadata_schema.fbs of
tflite-support. It is a flatbuffer of its own that names files, which are appended to the model as an archive.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Mapping, Sequence

import flatbuffers

LABELS = "labels.txt"
TENSOR_AXIS_LABELS = 2
# Places of fields in their tables.
MODEL_NAME, MODEL_DESCRIPTION, MODEL_SUBGRAPHS, MODEL_PARSER = 0, 1, 3, 7
SUBGRAPH_INPUTS, SUBGRAPH_OUTPUTS = 2, 3
TENSOR_NAME, TENSOR_FILES = 0, 6
FILE_NAME, FILE_DESCRIPTION, FILE_TYPE = 0, 1, 2


def describe(inputs: Sequence[str], outputs: Sequence[str], facts: Mapping[str, str], *, labelled: bool) -> bytes:
    """The metadata flatbuffer: names of tensors, the facts as description, the file of labels of the first output."""
    builder = flatbuffers.Builder(1024)
    text = "\n".join(f"{key}: {value}" for key, value in facts.items())

    def table(fields: int, values: Mapping[int, int], number: tuple[int, int] | None = None) -> int:
        builder.StartObject(fields)
        for slot, offset in values.items():
            builder.PrependUOffsetTRelativeSlot(slot, offset, 0)
        if number is not None:
            builder.PrependInt8Slot(number[0], number[1], 0)
        return int(builder.EndObject())

    def vector(offsets: Sequence[int]) -> int:
        builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            builder.PrependUOffsetTRelative(offset)
        return int(builder.EndVector())

    def tensor(name: str, with_labels: bool) -> int:
        fields = {TENSOR_NAME: builder.CreateString(name)}
        if with_labels:
            strings = {FILE_NAME: LABELS, FILE_DESCRIPTION: "names of the classes, one per line"}
            file = table(5, _strings(builder.CreateString, strings), (FILE_TYPE, TENSOR_AXIS_LABELS))
            fields[TENSOR_FILES] = vector([file])
        return table(7, fields)

    taken = vector([tensor(name, False) for name in inputs])
    outputs_metadata = vector([tensor(name, labelled and place == 0) for place, name in enumerate(outputs)])
    subgraphs = vector([table(10, {SUBGRAPH_INPUTS: taken, SUBGRAPH_OUTPUTS: outputs_metadata})])
    strings = _strings(
        builder.CreateString, {MODEL_NAME: facts.get("name", "network"), MODEL_DESCRIPTION: text, MODEL_PARSER: "1.0.0"}
    )
    builder.Finish(table(8, {**strings, MODEL_SUBGRAPHS: subgraphs}), file_identifier=b"M001")
    return bytes(builder.Output())


def _strings(create: Callable[[str], int], values: Mapping[int, str]) -> dict[int, int]:
    return {slot: create(value) for slot, value in values.items() if value}


def with_labels(content: bytes, labels: Sequence[str]) -> bytes:
    """The file with an archive at its end that holds the labels: any tool for zip archives opens it."""
    archive = io.BytesIO()
    archive.write(content)
    with zipfile.ZipFile(archive, "a", zipfile.ZIP_STORED) as made:
        entry = zipfile.ZipInfo(LABELS, (1980, 1, 1, 0, 0, 0))
        made.writestr(entry, "".join(f"{label}\n" for label in labels))
    return archive.getvalue()
