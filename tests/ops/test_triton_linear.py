"""Memory, traffic and sums of linear + loss over chunks of rows, under Triton's interpreter."""

from __future__ import annotations

import os

import pytest
import torch

pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("with a GPU tests/gpu runs the kernels themselves", allow_module_level=True)

from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.gpu.traffic import linear
from regfast.ops.target import Target
from regfast.ops.triton import linear_soft_cross_entropy as fused
from tests.ops.triton_inputs import labels, poisoned

__all__ = ["poisoned"]


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("classes", [32, 33])
def test_the_weights_gradient_is_rounded_once(monkeypatch, many, classes):
    if many:
        monkeypatch.setattr(fused, "_BYTES", 1)
        monkeypatch.setattr(fused, "_LEAST_ROWS", 1)
    rows, width = 64, 8
    features = torch.randn(rows, width).bfloat16().requires_grad_()
    weight = torch.randn(classes, width).bfloat16().requires_grad_()
    run, gradients = fused.rows_eager, []

    def watched(logits, *rest):
        assert logits.stride(0) % 8 == 0
        found = run(logits, *rest)
        gradients.append(found[3].double())
        return found

    monkeypatch.setattr(fused, "rows_eager", watched)
    fused.linear_soft_cross_entropy(features, weight, None, Target(labels(rows, classes), reduction="sum")).backward()
    assert (len(gradients) > 1) == many
    for found, other in ((weight.grad, features.detach()), (features.grad, weight.detach())):
        gradient = torch.cat(gradients)
        exact = (gradient.t() if found is weight.grad else gradient) @ other.double()
        # Half a unit in the last of bfloat16's 8 bits, and what float32 sums lose.
        assert ((found.double() - exact).abs() <= exact.abs() / 256 + 1e-5 * exact.abs().max()).all()


@pytest.mark.skipif(torch.__version__ < "2.13", reason="adding a product to float32 is for GPUs alone there")
def test_the_sum_over_chunks_is_the_products_own(monkeypatch):
    # Tensors without memory have the product that adds to float32, as those on a GPU have.
    added = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function is torch.ops.aten.addmm.dtype_out:
                added.append((args[0].dtype, args[1].dtype, kwargs.get("beta", 1)))
            return function(*args, **(kwargs or {}))

    total, a, b = (torch.empty(4, 4, dtype=dtype, device="meta") for dtype in (torch.float32, *[torch.bfloat16] * 2))
    assert fused._adds_inside(torch.bfloat16, total.device)
    with Watch():
        fused._add_product(total, a, b, 0)
        fused._add_product(total, a, b, 1)
    assert added == [(torch.float32, torch.bfloat16, 0), (torch.float32, torch.bfloat16, 1)]


def test_products_move_what_they_move_without_chunks():
    products, rest, whole = linear(8192, 4096, 128256)
    assert products <= 1.1 * whole and rest <= 0.5 * whole


def test_logits_are_held_up_to_the_stated_limit():
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            out = function(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and out.dtype == torch.bfloat16:
                largest = max(largest, out.numel() * 2)
            return out

    for width, most in ((64, 1 << 29), (4096, 4 * 4096 * 50257)):
        largest = 0
        with Watch():
            linear(32768, width, 50257)
        assert most / 2 < largest <= most
