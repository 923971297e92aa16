"""A network of one-bit weights and activations: trained, exported, and run by kernels of XNOR and popcount.

    python examples/binary_network.py

The engine ``bitwise`` compiles a small library when it is first needed; without a compiler, ONNX Runtime computes the
same in floats. Networks that keep more of their accuracy have a shortcut around every convolution: ``bireal_resnet20``.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from compress import Context, Quantize, Training, advance, deploy, open_network
from compress.data import load

NETWORK = f"{Path(__file__).with_name('net.py')}:build:width=24"
folder = Path("out/examples/bits")
folder.mkdir(parents=True, exist_ok=True)

data = load("digits")
twin = open_network(NETWORK, data=data)
context = Context(twin.example_inputs, data)
twin, trained = advance(twin, Training(epochs=6, batch_size=32), context)

# Signs of the inputs are learnt in the first half of the epochs, signs of the weights as well in the second.
learn = Training(epochs=6, batch_size=32, optimizer="adamw", learning_rate=2e-3)
binary, record = advance(twin, Quantize(scheme="binary", train=learn), replace(context, teacher=twin.model))
print(f"bit operations: {record.before.bit_operations:,} -> {record.after.bit_operations:,}")
print(f"validation top-1: {record.before.score} -> {record.after.score}")

written, _ = deploy.export(binary, "binary", folder / "model.bits.onnx")
print(f"{written.size_bytes:,} bytes, run by {written.engine}, agreement {written.parity.top1_agreement:.0f} %")
