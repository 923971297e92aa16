"""Quantize a network to int8, export it, check the file in its engine, and time it beside the float file.

python examples/quantize_and_export.py
"""

from __future__ import annotations

from pathlib import Path

from compress import Context, Fold, Quantize, Training, advance, deploy, open_network
from compress.data import load

NETWORK = f"{Path(__file__).with_name('net.py')}:build"
folder = Path("out/examples/files")
folder.mkdir(parents=True, exist_ok=True)

data = load("digits")
network = open_network(NETWORK, data=data)
context = Context(network.example_inputs, data)
network, _ = advance(network, Training(epochs=6, batch_size=32), context)
folded, _ = advance(network, Fold(), context)
quantized, _ = advance(folded, Quantize(), context)

# Each file is run in its engine at once, and held against its network: one that computes something else is not kept.
files = []
for name, each in (("float", folded), ("int8", quantized)):
    record, file = deploy.export(each, name, folder / f"{name}.onnx")
    files.append(file)
    print(
        f"{name}: {record.size_bytes:,} bytes; {record.nodes.integer} nodes in integers, {record.nodes.float} in float"
    )

# Both files in turn in one loop, on one thread; accuracy is that of the file, on the test split.
for measured in deploy.measure(files, data=data):
    print(f"{measured.name}: {measured.latency_ms.p50:.3f} ms, test {measured.score.name} {measured.score}")
