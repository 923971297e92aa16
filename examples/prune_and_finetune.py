"""Prune a network to a third of its multiply-adds and fine-tune it, with the network as it was as its teacher.

python examples/prune_and_finetune.py
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from compress import Context, Prune, Training, advance, open_network, save
from compress.data import load

NETWORK = f"{Path(__file__).with_name('net.py')}:build"  # or a name of the zoo, an artifact, an ONNX file

data = load("digits")  # or an image folder, an .npz, loaders.py:build
network = open_network(NETWORK, data=data)
context = Context(network.example_inputs, data)
baseline, trained = advance(network, Training(epochs=6, batch_size=32), context)

prune = Prune(macs=3, training=Training(epochs=4, batch_size=32))
pruned, record = advance(baseline, prune, replace(context, teacher=baseline.model))

for edit in record.edits[:4]:
    print(f"{edit.layer}.{edit.what}: {edit.before} -> {edit.after}")
for skip in record.skipped:
    print(f"left alone: {skip.layer or 'of all'}: {skip.reason}")
print(f"multiply-adds: {record.before.macs:,} -> {record.after.macs:,}")
print(f"validation top-1: {record.before.score} -> {record.after.score}")

save(pruned, "out/examples/pruned", overwrite=True)  # compress quantize out/examples/pruned ...
