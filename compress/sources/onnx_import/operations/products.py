"""Products of matrices: a module where the weights are in the file, a function where they are computed."""

from __future__ import annotations

import torch
from torch import Tensor

from ..step import Call
from .registry import operator


@operator("MatMul")
def _matmul(call: Call) -> Tensor:
    return call.through() if call.module is not None else torch.matmul(call.tensor(0), call.tensor(1))


@operator("Gemm")
def _gemm(call: Call) -> Tensor:
    if call.module is not None:
        return call.through()
    a, b = call.tensor(0), call.tensor(1)
    a = a.T if call.step.integer("transA") else a
    b = b.T if call.step.integer("transB") else b
    product = call.step.real("alpha", 1.0) * (a @ b)
    return product + call.step.real("beta", 1.0) * call.tensor(2) if call.has(2) else product


@operator("Einsum")
def _einsum(call: Call) -> Tensor:
    return torch.einsum(call.step.text("equation"), *(call.tensor(i) for i in range(len(call.values))))
