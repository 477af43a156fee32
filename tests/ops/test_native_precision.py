"""The native CPU kernels against float64: sizes around every vector, tile and block, memory of every layout."""

from __future__ import annotations

import math

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from regfast.ops import dispatch
from tests.ops import oracle
from tests.ops.triton_inputs import poisoned, strided, unaligned

if dispatch.unavailable("cpu") is not None:
    pytest.skip("the native extension is not built", allow_module_level=True)

from regfast.ops.feature_stats import feature_stats
from regfast.ops.objective import KINDS, objective
from tests.ops.losses import linear_soft_cross_entropy, soft_cross_entropy, soft_cross_entropy_stats

__all__ = ["poisoned"]

CLASSES = (1, 2, 10, 31, 32, 33, 1000, 1003, 1024, 1025, 21841, 65537)
MIX, SMOOTHING = 0.625, 0.1


@pytest.fixture(autouse=True)
def native():
    with dispatch.use_backend("cpu"):
        yield


def batch(rows: int, classes: int, scale: float = 3.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(torch.initial_seed() + 31 * rows + classes)
    z = scale * torch.randn(rows, classes, generator=generator)
    first, second = torch.randint(classes, (2, rows), generator=generator)
    return z, first, second


def check(z, q, **arguments):
    """Every row's loss to a relative 1e-6, every gradient to 1e-5 of its row's largest, for an incoming gradient.

    Where softmax and target nearly cancel, p - q is as good as a float32 p can be: to 2 ulp of the largest p.
    """
    expected, gradient = oracle.losses(z, q)
    bound = 1e-5 * gradient.abs().amax(1) + 2.0**-22 * (gradient + q).amax(1) + 1e-12
    incoming = torch.linspace(0.5, 2.0, len(z))
    for backward in ("recompute", "store"):
        leaf = z.detach().requires_grad_()
        loss = soft_cross_entropy(leaf, **arguments, reduction="none", backward=backward)
        if z.shape[1] > 1:
            torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=1e-30)
        got = torch.autograd.grad(loss, leaf, incoming)[0].double() / incoming.double().unsqueeze(1)
        error = (got - gradient).abs().amax(1)
        assert (error <= bound).all(), f"{backward}: {(error / bound).max()} times the bound"


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("kind", ["index", "mixed", "dense"])
def test_loss_and_gradient(classes, kind):
    rows = 37 if classes <= 1025 else 3
    z, first, second = batch(rows, classes)
    if kind == "index":
        check(z, oracle.mixture(first, None, 1.0, 0.0, classes), first=first)
    elif kind == "mixed":
        q = oracle.mixture(first, second, MIX, SMOOTHING, classes)
        check(z, q, first=first, second=second, lam=MIX, smoothing=SMOOTHING)
    else:
        dense = torch.rand(rows, classes)
        dense /= dense.sum(1, keepdim=True)
        check(z, (1 - SMOOTHING) * dense.double() + SMOOTHING / classes, dense=dense, smoothing=SMOOTHING)


@pytest.mark.parametrize("classes", [10, 1000])
def test_class_weights_with_smoothing_and_ignored_rows(classes):
    z, first, second = batch(35, classes)
    w = 0.5 + torch.rand(classes)
    kept = torch.arange(35) % 4 != 0
    first = torch.where(kept, first, -100)
    arguments = {"first": first, "second": second, "lam": MIX, "smoothing": SMOOTHING, "class_weight": w}
    q = oracle.mixture(first, second, MIX, SMOOTHING, classes) * w.double()
    expected, gradient = oracle.losses(z, q)
    leaf = z.clone().requires_grad_()
    loss = soft_cross_entropy(leaf, **arguments, reduction="none")
    torch.testing.assert_close(loss.double(), torch.where(kept, expected, 0), rtol=1e-6, atol=0)
    got = torch.autograd.grad(loss.sum(), leaf)[0]
    torch.testing.assert_close(got.double(), gradient * kept.unsqueeze(1), rtol=1e-4, atol=3e-7)
    assert (got[~kept] == 0).all() and (loss[~kept] == 0).all()


@pytest.mark.parametrize("classes", [10, 1000])
def test_confident_rows_keep_the_digits_of_small_losses(classes):
    z, first, _ = batch(33, classes, scale=1.0)
    z[torch.arange(33), first] += torch.linspace(5, 60, 33)
    expected = expected_small(z, first)
    assert expected.min() < 1e-20
    leaf = z.requires_grad_()
    loss = soft_cross_entropy(leaf, first, reduction="none")
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)
    own = torch.autograd.grad(loss.sum(), leaf)[0][torch.arange(33), first]
    torch.testing.assert_close(own.double(), (-expected).expm1(), rtol=1e-5, atol=0)


def expected_small(z: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """log(1 + Σ_{j≠y} exp(z_j - z_y)) in float64, exact also where it is tiny."""
    wide = z.double()
    own = wide.gather(1, label.unsqueeze(1))
    return (wide - own).exp().scatter(1, label.unsqueeze(1), 0.0).sum(1).log1p()


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("depth", [80.0, 86.9, 87.9, 88.1, 103.0, 1e4, 1e30, math.inf])
@pytest.mark.parametrize("classes", [10, 65, 1003])
def test_logits_far_below_the_largest(classes, depth, smoothing):
    z = torch.randn(9, classes)
    z[1:, ::3] = z.max() - depth  # the first row has none of them
    first, second = torch.randint(classes // 3, (2, 9)) * 3 + 1
    dense = torch.rand(9, classes)
    dense[:, ::3] *= depth < math.inf  # 0 · -inf is 0
    mixed = oracle.mixture(first, second, MIX, 0.0, classes)
    targets = [(dense.double(), {"dense": dense}), (mixed, {"first": first, "second": second, "lam": MIX})]
    for plain, arguments in targets:
        q = (1 - smoothing) * plain + smoothing / classes
        expected, gradient = oracle.losses(z, q)
        leaf = z.clone().requires_grad_()
        loss = soft_cross_entropy(leaf, **arguments, smoothing=smoothing, reduction="none")
        torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)
        got = torch.autograd.grad(loss.sum(), leaf)[0]
        torch.testing.assert_close(got.double(), gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("classes", [10, 1003])
def test_an_offset_costs_nothing(classes):
    z, first, second = batch(21, classes)
    z = (256 * z).round() / 256  # so that z + 1e4 is exact
    arguments = {"second": second, "lam": MIX, "smoothing": SMOOTHING, "reduction": "none"}
    near, far = z.clone().requires_grad_(), (z + 8192).requires_grad_()
    a, b = soft_cross_entropy(near, first, **arguments), soft_cross_entropy(far, first, **arguments)
    assert torch.equal(far.detach() - 8192, z) and torch.equal(a, b)
    assert torch.equal(torch.autograd.grad(a.sum(), near)[0], torch.autograd.grad(b.sum(), far)[0])


@pytest.mark.parametrize("layout", [unaligned, strided, lambda t: t.t().contiguous().t(), lambda t: t[::2]])
@pytest.mark.parametrize("classes", [10, 1003])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_layouts(layout, classes, dtype):
    z = batch(18, classes)[0]
    dense = torch.rand(18, classes)
    given, q = layout(z.to(dtype)), layout(dense)
    leaf, plain = given.detach().requires_grad_(), given.detach().contiguous().requires_grad_()
    loss = soft_cross_entropy(leaf, dense=q)
    expected = soft_cross_entropy(plain, dense=q.contiguous())
    assert torch.equal(loss, expected)
    assert torch.equal(torch.autograd.grad(loss, leaf)[0], torch.autograd.grad(expected, plain)[0])
    inplace = layout(z.to(dtype)).detach().requires_grad_()
    soft_cross_entropy(inplace * 1, dense=q, inplace=True).backward()
    torch.testing.assert_close(inplace.grad, torch.autograd.grad(soft_cross_entropy(plain, dense=q), plain)[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("classes", [10, 1003])
def test_half_precision_is_rounded_once(dtype, classes):
    z, first, second = batch(64, classes)
    leaf = z.to(dtype).requires_grad_()
    q = oracle.mixture(first, second, MIX, SMOOTHING, classes)
    _, gradient = oracle.losses(leaf, q)
    loss = soft_cross_entropy(leaf, first, second, MIX, smoothing=SMOOTHING, reduction="sum")
    assert loss.dtype == torch.float32
    assert oracle.within_an_ulp(torch.autograd.grad(loss, leaf)[0], gradient, gradient + 2 * q) >= 0.999  # p and q


def test_every_half_number_survives_the_conversions():
    bits = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16)
    for dtype in (torch.bfloat16, torch.float16):
        v = bits.view(dtype)
        v = v[v.isfinite() & (v.abs().float() < 1e18)].unsqueeze(1)  # squares stay finite
        # rms of one entry is its magnitude; the gradient of rms is its sign
        leaf = v.clone().requires_grad_()
        stats = feature_stats(leaf, torch.ones(1, 1), torch.zeros(len(v), dtype=torch.int64))
        torch.testing.assert_close(stats.rms, v.float().abs().squeeze(1), rtol=1e-6, atol=1e-18)
        incoming = v.float().abs().squeeze(1)
        got = torch.autograd.grad(stats.rms, leaf, incoming)[0]
        normal = v.float().abs() > 1e-15
        assert torch.equal(got[normal], v[normal])


@pytest.mark.parametrize("classes", [2, 10, 1003])
def test_nan_and_infinite_logits(classes):
    z, first, _ = batch(5, classes)
    z[0, 1] = math.nan
    z[1, 1] = math.inf
    z[2] = -math.inf
    z[3, (first[3] + 1) % classes] = -math.inf
    leaf = z.requires_grad_()
    loss = soft_cross_entropy(leaf, first, reduction="none")
    got = torch.autograd.grad(loss.sum(), leaf)[0]
    assert loss.isnan().tolist() == [True, True, True, False, False]
    assert got.isnan().any(1).tolist() == [True, True, True, False, False]
    expected, gradient = oracle.losses(z[3:], oracle.mixture(first[3:], None, 1.0, 0.0, classes))
    torch.testing.assert_close(loss[3:].double(), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(got[3:].double(), gradient, rtol=1e-5, atol=3e-7)


@pytest.mark.parametrize("classes", [10, 1000, 1003])
def test_statistics(classes):
    z, first, second = batch(40, classes)
    z[3, 1] = z[3, 0] = z[3].max() + 1  # a tie
    features, centers = torch.randn(40, 17), torch.randn(classes, 17)
    for lam in (0.3, 0.7):
        true = first if lam >= 0.5 else second
        _, stats = soft_cross_entropy_stats(
            z, first, second, lam, features=features, centers=centers, smoothing=SMOOTHING
        )
        expected = oracle.statistics(z, true)
        rms, cosine = oracle.geometry(features, centers, true)
        expected |= {"rms": rms, "cosine": cosine}
        expected["cosine_predicted"] = oracle.geometry(features, centers, expected["prediction"])[1]
        for name, value in expected.items():
            got = getattr(stats, name)
            torch.testing.assert_close(got.to(value.dtype), value, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("classes", [4, 10, 1003])
def test_objectives(kind, classes):
    z, labels, targets = batch(33, classes)
    targets = torch.where(targets == labels, (targets + 1) % classes, targets)
    leaf = z.double().requires_grad_()
    expected = oracle.objective(leaf, labels, kind, targets)
    gradient = torch.autograd.grad(expected.sum(), leaf)[0]
    got = objective(z, labels, kind, targets)
    torch.testing.assert_close(got.loss.double(), expected.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(got.gradient.double(), gradient, rtol=1e-4, atol=1e-6)
    assert torch.equal(got.prediction, z.argmax(1))


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_change_nothing(threads):
    z, first, second = batch(1500, 100)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        leaf = z.requires_grad_()
        loss = soft_cross_entropy(leaf, first, second, MIX, smoothing=SMOOTHING)
        got = torch.autograd.grad(loss, leaf)[0]
    finally:
        torch.set_num_threads(before)
    expected, gradient = oracle.losses(z, oracle.mixture(first, second, MIX, SMOOTHING, 100))
    torch.testing.assert_close(loss.double(), expected.mean(), rtol=1e-6, atol=0)
    torch.testing.assert_close(1500 * got.double(), gradient, rtol=1e-5, atol=3e-7)


def test_linear_never_holds_the_logits():
    rows, classes, width = 512, 4000, 8
    v, w = torch.randn(rows, width, requires_grad=True), torch.randn(classes, width, requires_grad=True)
    first = torch.randint(classes, (rows,))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        linear_soft_cross_entropy(v, w, None, first, first.roll(1), MIX, smoothing=SMOOTHING).backward()
    largest = max(event.self_cpu_memory_usage for event in seen.events())
    assert largest < rows * classes * 4 / 1.9
