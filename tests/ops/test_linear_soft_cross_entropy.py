from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from regfast.ops.reference import linear_soft_cross_entropy as reference
from tests.ops.backends import on_cpu
from tests.ops.losses import linear_soft_cross_entropy, soft_cross_entropy

pytestmark = on_cpu("linear_soft_cross_entropy")


def inputs(rows: int, width: int, classes: int, dtype: torch.dtype = torch.float64):
    generator = torch.Generator().manual_seed(torch.initial_seed() + rows + width + classes)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()

    return draw(rows, width), draw(classes, width), draw(classes)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("kind", ["index", "mixed", "dense"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("chunk", [1 << 22, 40])
def test_is_the_loss_of_the_linear_layer(backend, monkeypatch, reduction, kind, bias, chunk):
    monkeypatch.setattr(reference, "CHUNK", chunk)  # 40 logits at a time: three rows
    features, weight, offset = inputs(17, 5, 11)
    offset = offset if bias else None
    first = torch.arange(17) % 11
    first[4] = -100
    target: dict = {"first": first, "index_target": True}
    if kind == "mixed":
        target = {"first": first, "second": torch.arange(17) % 7, "lam": torch.rand(17, dtype=torch.float64)}
    elif kind == "dense":
        target = {"dense": torch.rand(17, 11, dtype=torch.float64)}
    options = {
        "smoothing": torch.tensor(0.2), "class_weight": torch.rand(11, dtype=torch.float64),
        "sample_weight": torch.rand(17, dtype=torch.float64), "reduction": reduction,
    }  # fmt: skip
    loss = linear_soft_cross_entropy(features, weight, offset, **target, **options)
    expected = soft_cross_entropy(functional.linear(features, weight, offset), **target, **options)
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-12)
    leaves = [features, weight, offset] if bias else [features, weight]
    incoming = torch.rand_like(loss) + 0.5
    torch.testing.assert_close(
        torch.autograd.grad(loss, leaves, incoming), torch.autograd.grad(expected, leaves, incoming), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_precision(backend, dtype):
    features, weight, bias = inputs(64, 32, 1003, dtype)
    first, second = torch.randint(1003, (2, 64))
    loss = linear_soft_cross_entropy(features, weight, bias, first, second, 0.3, smoothing=0.1)
    assert loss.dtype == torch.float32
    wide = [t.detach().double().requires_grad_() for t in (features, weight, bias)]
    expected = soft_cross_entropy(functional.linear(*wide), first, second, 0.3, smoothing=0.1)
    close = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(loss.double(), expected, rtol=close, atol=0)
    for ours, exact in zip(
        torch.autograd.grad(loss, (features, weight, bias)), torch.autograd.grad(expected, wide), strict=True
    ):
        assert ours.dtype == dtype
        assert (ours.double() - exact).norm() <= close * exact.norm()


def test_the_logits_are_never_whole(backend):
    features, weight, bias = inputs(4096, 8, 4001, torch.float32)
    first = torch.arange(4096) % 4001
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            out = function(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, (tuple, list)) else [out]:
                if isinstance(tensor, torch.Tensor):
                    largest = max(largest, tensor.untyped_storage().nbytes() // 4)
            return out

    with Watch():
        linear_soft_cross_entropy(features, weight, bias, first, smoothing=0.1).backward()
    assert largest < 4096 * 4001 / 2


def test_empty_out_of_range_and_ignored(backend):
    features, weight, bias = inputs(0, 5, 11, torch.float32)
    loss = linear_soft_cross_entropy(features, weight, bias, torch.empty(0, dtype=torch.int64), reduction="sum")
    loss.backward()
    assert loss.item() == 0 and weight.grad.eq(0).all()
    features, weight, bias = inputs(3, 5, 11, torch.float32)
    with pytest.raises(IndexError, match="11"):
        linear_soft_cross_entropy(features, weight, bias, torch.tensor([0, 11, 2]))
    all_ignored = linear_soft_cross_entropy(features, weight, bias, torch.full((3,), -100), reduction="sum")
    assert all_ignored.item() == 0


@pytest.mark.parametrize("rows", [0, 2])
def test_the_mean_over_no_rows_is_nan(backend, rows):
    features, weight, offset = inputs(rows, 3, 4, torch.float32)
    first = torch.full((rows,), -100)
    loss = linear_soft_cross_entropy(features, weight, offset, first=first, index_target=True, reduction="mean")
    assert loss.isnan()
    for grad in torch.autograd.grad(loss, (features, weight, offset)):
        assert not grad.any()


def test_dense_target_that_requires_grad(backend):
    features, weight, bias = inputs(6, 5, 11)
    dense = torch.rand(6, 11, dtype=torch.float64, requires_grad=True)
    loss = linear_soft_cross_entropy(features, weight, bias, dense=dense)
    expected = functional.cross_entropy(functional.linear(features, weight, bias), dense)
    torch.testing.assert_close(torch.autograd.grad(loss, dense), torch.autograd.grad(expected, dense))


def test_backward_twice(backend):
    features, weight, bias = inputs(6, 5, 11)
    loss = linear_soft_cross_entropy(features, weight, bias, torch.arange(6))
    once = torch.autograd.grad(loss, weight, torch.tensor(2.0, dtype=torch.float64), retain_graph=True)[0].clone()
    torch.testing.assert_close(2 * torch.autograd.grad(loss, weight)[0], once)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_compiles_whole(backend, reduction):
    torch.compiler.reset()
    features, weight, bias = inputs(6, 5, 11, torch.float32)
    first, second = torch.arange(6), torch.arange(6).flip(0)

    def step(x, w, b, share):
        return linear_soft_cross_entropy(x, w, b, first, second, share, smoothing=0.1, reduction=reduction).sum()

    share = torch.tensor(0.3)
    loss, expected = (
        torch.compile(step, fullgraph=True, backend="aot_eager")(features, weight, bias, share),
        step(features, weight, bias, share),
    )
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(loss, weight), torch.autograd.grad(expected, weight))
