"""Train a small student with the help of a larger teacher, and the same student without it.

python examples/distil.py
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from compress import Context, Distill, Training, advance, open_network
from compress.data import load

NETWORK = f"{Path(__file__).with_name('net.py')}:build"

data = load("digits")
teacher = open_network(f"{NETWORK}:width=32", data=data)
student = open_network(f"{NETWORK}:width=4", data=data)
context = Context(student.example_inputs, data)

teacher, record = advance(teacher, Training(epochs=6, batch_size=32), context)
print(f"teacher: {record.after.params:,} parameters, validation top-1 {record.after.score}")

# The loss: 0.9 times the teacher's soft targets at temperature 4, and 0.1 times the labels (Hinton et al., 2015).
training = Training(epochs=6, batch_size=32, temperature=4, teacher_weight=0.9)
_, alone = advance(student, training, context)
_, helped = advance(student, Distill(training=training), replace(context, teacher=teacher.model))

print(f"student: {alone.after.params:,} parameters")
print(f"on the labels alone: {alone.after.score}; with the teacher: {helped.after.score}")
