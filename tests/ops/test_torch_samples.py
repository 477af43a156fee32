"""PyTorch's own samples of its cross-entropy, function and module: the same values and gradients from every backend."""

from __future__ import annotations

import os
import sys
import unittest
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import regfast
from regfast.ops import dispatch

sys.modules.setdefault("expecttest", SimpleNamespace(TestCase=unittest.TestCase))  # PyTorch's samples import it only
common_methods = pytest.importorskip("torch.testing._internal.common_methods_invocations")
common_modules = pytest.importorskip("torch.testing._internal.common_modules")

BACKENDS = [name for name in ("reference", "cpu") if dispatch.unavailable(name) is None]
if os.environ.get("TRITON_INTERPRET") == "1" and dispatch.unavailable("triton") is None:
    BACKENDS.append("triton")
everywhere = pytest.mark.parametrize("backend", BACKENDS, indirect=True)


def dtype_of(backend: str) -> torch.dtype:
    return torch.float32 if backend == "triton" else torch.float64


def samples(dtype: torch.dtype) -> Iterator[tuple[Tensor, Tensor, dict]]:
    """Logits, target and keywords of `nn.functional.cross_entropy`."""
    (op,) = (op for op in common_methods.op_db if op.name == "nn.functional.cross_entropy")
    for sample in op.sample_inputs("cpu", dtype, requires_grad=True):
        (target,) = sample.args
        yield sample.input, target, sample.kwargs


def ours(logits: Tensor, target: Tensor, keywords: dict) -> Tensor:
    renamed = {{"weight": "class_weight"}.get(name, name): value for name, value in keywords.items()}
    return regfast.soft_cross_entropy(logits, target, **renamed)


def compare(found: Tensor, expected: Tensor, leaves: list[Tensor], label: str) -> None:
    close = {"rtol": 1e-5, "atol": 1e-6} if found.dtype == torch.float32 else {"rtol": 1e-12, "atol": 1e-13}
    torch.testing.assert_close(found, expected, equal_nan=True, msg=lambda m: f"{label}: {m}", **close)
    incoming = torch.randn_like(expected)
    gradients = [torch.autograd.grad(value, leaves, incoming, allow_unused=True) for value in (found, expected)]
    torch.testing.assert_close(*gradients, equal_nan=True, msg=lambda m: f"{label}: {m}", **close)


@everywhere
def test_function(backend):
    count = 0
    for logits, target, keywords in samples(dtype_of(backend)):
        label = f"{tuple(logits.shape)}, {tuple(target.shape)} {target.dtype}, {keywords}"
        leaves = [tensor for tensor in (logits, target) if tensor.requires_grad]
        compare(ours(logits, target, keywords), functional.cross_entropy(logits, target, **keywords), leaves, label)
        count += 1
    assert count >= 20


@everywhere
def test_second_derivative(backend):
    def second(loss: Tensor, logits: Tensor) -> Tensor:
        (grad,) = torch.autograd.grad(loss.sum(), logits, create_graph=True)
        return torch.autograd.grad(grad.square().sum(), logits)[0]

    for logits, target, keywords in samples(dtype_of(backend)):
        target = target.detach()  # one that requires grad goes to reference
        if backend == "reference":
            expected = second(functional.cross_entropy(logits, target, **keywords), logits)
            found = second(ours(logits, target, keywords), logits)
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12, equal_nan=True)
        else:
            with pytest.raises(RuntimeError, match="no second derivative"):
                second(ours(logits, target, keywords), logits)


@everywhere
def test_module(backend):
    (info,) = (info for info in common_modules.module_db if info.module_cls is nn.CrossEntropyLoss)
    dtype = dtype_of(backend)
    found = info.module_inputs_func(info, device="cpu", dtype=dtype, requires_grad=True, training=True)
    for sample in found[:: 4 if backend == "triton" else 1]:
        arguments, keywords = sample.constructor_input.args, sample.constructor_input.kwargs
        logits, target = sample.forward_input.args
        theirs = nn.CrossEntropyLoss(*arguments, **keywords)
        mine = regfast.nn.SoftCrossEntropy(*arguments, **keywords)
        if theirs.weight is not None:
            mine.load_state_dict(theirs.state_dict())
        leaves = [tensor for tensor in (logits, target) if tensor.requires_grad]
        compare(mine(logits, target), theirs(logits, target), leaves, f"{tuple(logits.shape)} {keywords}")
    assert len(found) >= 100
