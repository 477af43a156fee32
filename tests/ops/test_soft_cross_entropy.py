from __future__ import annotations

import math

import pytest
import torch
import torch.utils.checkpoint
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from tests.ops import oracle
from tests.ops.backends import on_cpu
from tests.ops.losses import soft_cross_entropy

pytestmark = on_cpu("soft_cross_entropy")

REDUCTIONS = ("none", "mean", "sum")
EXACT = {"rtol": 0, "atol": 1e-12}


def make(rows: int, classes: int, dtype: torch.dtype = torch.float64, scale: float = 3.0, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(torch.initial_seed() + 1000 * rows + classes + seed)
    return (scale * torch.randn(rows, classes, generator=generator, dtype=torch.float64)).to(dtype).requires_grad_()


def both(loss: Tensor, expected: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of the two on `logits`, for incoming gradients that are not 1."""
    incoming = (
        torch.linspace(-1.5, 2.0, max(loss.numel(), 1), dtype=torch.float64)[: loss.numel()].view(loss.shape) + 0.25
    )
    ours = torch.autograd.grad(loss, logits, incoming.to(loss.dtype))[0]
    return ours, torch.autograd.grad(expected, logits, incoming.to(expected.dtype))[0]


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1, torch.tensor(0.3), 1.0])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ignoring", [False, True])
def test_index_targets_are_torchs(backend, reduction, smoothing, weighted, ignoring):
    # With class weights, smoothing and ignore_index together: pytorch issues 69339, 73205, 91383.
    logits, labels = make(33, 7), torch.arange(33) % 7
    if ignoring:
        labels[::4] = 3
    index = 3 if ignoring else -100
    class_weight = torch.rand(7, dtype=torch.float64) if weighted else None
    loss = soft_cross_entropy(
        logits, labels, smoothing=smoothing, class_weight=class_weight, ignore_index=index, reduction=reduction,
        index_target=True,
    )  # fmt: skip
    expected = functional.cross_entropy(
        logits, labels, class_weight, label_smoothing=float(smoothing), ignore_index=index, reduction=reduction
    )
    torch.testing.assert_close(loss, expected, **EXACT)
    torch.testing.assert_close(*both(loss, expected, logits), **EXACT)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1, torch.tensor(0.3, dtype=torch.float64)])
@pytest.mark.parametrize("weighted", [False, True])
def test_probability_targets_are_torchs(backend, reduction, smoothing, weighted):
    logits, dense = make(33, 7), torch.rand(33, 7, dtype=torch.float64)  # rows need not sum to 1
    class_weight = torch.rand(7, dtype=torch.float64) if weighted else None
    loss = soft_cross_entropy(logits, dense=dense, smoothing=smoothing, class_weight=class_weight, reduction=reduction)
    expected = functional.cross_entropy(
        logits, dense, class_weight, label_smoothing=float(smoothing), reduction=reduction
    )
    torch.testing.assert_close(loss, expected, **EXACT)
    torch.testing.assert_close(*both(loss, expected, logits), **EXACT)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weight", [0.3, 1.0, 0.0, torch.tensor(0.75, dtype=torch.float64), "per sample"])
@pytest.mark.parametrize("smoothing", [0.0, torch.tensor(0.1, dtype=torch.float64)])
def test_mixed_targets_are_their_dense_form(backend, reduction, weight, smoothing):
    logits, first = make(20, 6), torch.arange(20) % 6
    second = first.roll(1)
    second[5] = first[5]
    mix = torch.rand(20, dtype=torch.float64) if isinstance(weight, str) else weight
    class_weight = torch.rand(6, dtype=torch.float64)
    q = oracle.mixture(first, second, mix, float(smoothing), 6)
    loss = soft_cross_entropy(
        logits, first, second, mix, smoothing=smoothing, class_weight=class_weight, reduction=reduction
    )
    expected = functional.cross_entropy(logits, q, class_weight, reduction=reduction)
    torch.testing.assert_close(loss, expected, **EXACT)
    torch.testing.assert_close(*both(loss, expected, logits), **EXACT)


@pytest.mark.parametrize("classes", [1, 2, 10, 33, 1000, 1003])
@pytest.mark.parametrize("kind", ["index", "mixed", "dense"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("reduction", ["none", "sum"])
def test_precision(backend, classes, kind, dtype, reduction):
    rows = 37
    logits = make(rows, classes, dtype)
    first, second = torch.randint(classes, (2, rows))
    arguments: dict = {"first": first}
    q = oracle.mixture(first, None, 1.0, 0.1, classes)
    if kind == "mixed":
        arguments = {"first": first, "second": second, "lam": 0.625}
        q = oracle.mixture(first, second, 0.625, 0.1, classes)
    elif kind == "dense":
        dense = torch.rand(rows, classes)
        arguments = {"dense": dense}
        q = 0.9 * dense.double() + 0.1 / classes
    loss = soft_cross_entropy(logits, **arguments, smoothing=0.1, reduction=reduction)
    expected, gradient = oracle.losses(logits, q)
    got = torch.autograd.grad(loss.sum(), logits)[0]
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert loss.dtype == wide and got.dtype == dtype
    expected = expected if reduction == "none" else expected.sum()
    # K = 1: the loss is 0, so an error relative to it means nothing; relative to the logits' size it does.
    close = {"rtol": 1e-12, "atol": 1e-12} if wide == torch.float64 else {"rtol": 1e-6, "atol": 1e-6}
    torch.testing.assert_close(loss.double(), expected, **close)
    if dtype in (torch.float64, torch.float32):
        scale = gradient.abs().amax()
        tolerance = 1e-12 if dtype == torch.float64 else 1e-5
        assert (got.double() - gradient).abs().amax() <= tolerance * torch.clamp(scale, min=0.01)
    elif classes > 1:
        assert oracle.within_an_ulp(got, gradient, gradient + 2 * q) >= 0.999  # p and q


def test_empty_batch(backend):
    logits = torch.empty(0, 5, requires_grad=True)
    labels = torch.empty(0, dtype=torch.int64)
    assert soft_cross_entropy(logits, labels, reduction="none").shape == (0,)
    total = soft_cross_entropy(logits, labels, reduction="sum")
    assert total.item() == 0
    assert soft_cross_entropy(logits, labels, reduction="mean", index_target=True).isnan()
    assert soft_cross_entropy(logits, dense=torch.empty(0, 5), reduction="mean").isnan()
    assert torch.autograd.grad(total, logits)[0].shape == (0, 5)


def test_minus_infinity_costs_nothing_where_the_target_is_zero(backend):
    logits = make(4, 5, torch.float32).detach()
    logits[:, 2] = -math.inf
    logits.requires_grad_()
    first, second = torch.tensor([0, 1, 3, 4]), torch.tensor([1, 1, 2, 0])
    q = oracle.mixture(first, None, 1.0, 0.0, 5)
    expected, gradient = oracle.losses(logits, q)
    for arguments in ({"first": first}, {"dense": q.float()}, {"first": first, "second": second, "lam": 1.0},
                      {"first": first, "smoothing": torch.tensor(0.0)}):  # fmt: skip
        loss = soft_cross_entropy(logits, **arguments, reduction="none")
        torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=1e-6)
        got = torch.autograd.grad(loss.sum(), logits)[0]
        torch.testing.assert_close(got.double(), gradient, rtol=1e-5, atol=3e-7)
    loss = soft_cross_entropy(logits, first, second, 0.5, reduction="none")
    assert loss.isposinf().tolist() == [False, False, True, False]


def test_a_common_offset_costs_no_digits(backend):
    logits = (make(64, 100, torch.float32).detach() * 16).round() / 16  # so that adding 1e4 is exact
    first, second = torch.randint(100, (2, 64))
    results = []
    for offset in (0.0, 1e4, -1e4):
        shifted = (logits + offset).requires_grad_()
        loss = soft_cross_entropy(shifted, first, second, 0.4, smoothing=0.1, reduction="none")
        results.append((loss.detach(), torch.autograd.grad(loss.sum(), shifted)[0]))
    for loss, gradient in results[1:]:
        assert torch.equal(loss, results[0][0]) and torch.equal(gradient, results[0][1])


def test_large_gaps(backend):
    logits = torch.tensor([[500.0, -500.0, 0.0], [-3e4, 3e4, 0.0]], requires_grad=True)
    loss = soft_cross_entropy(logits, torch.tensor([1, 1]), reduction="none")
    assert loss.tolist() == [1000.0, 0.0]
    assert torch.autograd.grad(loss.sum(), logits)[0].tolist() == [[1, -1, 0], [0, 0, 0]]


@pytest.mark.parametrize("layout", ["transposed", "every other", "offset", "expanded"])
def test_any_strides(backend, layout):
    if layout == "transposed":
        logits = torch.randn(9, 12).t()
    elif layout == "every other":
        logits = torch.randn(12, 18)[:, ::2]
    elif layout == "offset":
        logits = torch.randn(12 * 9 + 1)[1:].view(12, 9)
    else:
        logits = torch.randn(1, 9).expand(12, 9)
    labels = torch.randint(9, (24,))[::2]
    dense = torch.rand(9, 12).t()
    weight = torch.rand(24)[::2]
    plain = logits.clone().contiguous()
    for arguments in (
        {"first": labels},
        {"dense": dense},
        {"first": labels, "second": labels.flip(0), "lam": weight},
    ):
        pairs = []
        for z in (logits.detach().requires_grad_(), plain.detach().requires_grad_()):
            loss = soft_cross_entropy(z, **arguments, sample_weight=weight)
            pairs.append((loss.detach(), torch.autograd.grad(loss, z)[0]))
        torch.testing.assert_close(pairs[0], pairs[1], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_ignored_rows_are_exactly_zero(backend, mixed, reduction):
    logits = make(6, 4, torch.float32).detach()
    logits[2] = math.nan
    logits.requires_grad_()
    labels = torch.tensor([0, 1, -100, 3, -100, 2])
    second, weight = (labels.roll(2).clamp(min=0), 0.5) if mixed else (None, 1.0)
    loss = soft_cross_entropy(
        logits, labels, second, weight, smoothing=0.1, reduction=reduction, index_target=not mixed
    )
    kept = [0, 1, 3, 5]
    alone = soft_cross_entropy(
        logits[kept], labels[kept], None if second is None else second[kept], weight, smoothing=0.1, reduction=reduction
    )
    torch.testing.assert_close(loss[kept] if reduction == "none" else loss, alone)
    gradient = torch.autograd.grad(loss.sum(), logits)[0]
    assert gradient[[2, 4]].eq(0).all() and gradient[kept].isfinite().all()
    if reduction == "none":
        assert loss[[2, 4]].tolist() == [0, 0]


def test_all_ignored(backend):
    logits, labels = make(3, 4, torch.float32), torch.full((3,), -100)
    assert soft_cross_entropy(logits, labels, reduction="mean", index_target=True).isnan()
    assert soft_cross_entropy(logits, labels, reduction="sum").item() == 0


@pytest.mark.parametrize("label", [-1, 5, 2**40, -(2**62)])
def test_labels_out_of_range(backend, label):
    logits, labels = make(4, 5, torch.float32), torch.tensor([0, 1, label, 3])
    with pytest.raises(IndexError, match=str(label)):
        soft_cross_entropy(logits, labels)
    with pytest.raises(IndexError, match=str(label)):
        soft_cross_entropy(logits, labels.clamp(0, 4), labels, 0.5)


@pytest.mark.parametrize("index_target", [False, True])
def test_sample_weights(backend, index_target):
    logits, labels = make(10, 4), torch.arange(10) % 4
    labels[3] = -100
    class_weight, sample_weight = torch.rand(4, dtype=torch.float64), torch.rand(10, dtype=torch.float64)
    options = {"class_weight": class_weight, "index_target": index_target}
    rows = soft_cross_entropy(logits, labels, reduction="none", **options)
    weighted = soft_cross_entropy(logits, labels, sample_weight=sample_weight, reduction="none", **options)
    torch.testing.assert_close(weighted, rows * sample_weight, **EXACT)
    share = sample_weight * (class_weight[labels.clamp(min=0)] if index_target else 1.0)
    mean = soft_cross_entropy(logits, labels, sample_weight=sample_weight, reduction="mean", **options)
    torch.testing.assert_close(mean, weighted.sum() / share[labels >= 0].sum(), **EXACT)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("kind", ["index", "mixed", "dense"])
def test_gradcheck(backend, reduction, kind):
    logits, first = make(5, 4), torch.tensor([0, 1, -100, 3, 2])
    target: dict = {"first": first, "index_target": True}
    if kind == "mixed":
        target = {"first": first, "second": torch.tensor([1, 1, 0, 0, 3]), "lam": torch.rand(5, dtype=torch.float64)}
    elif kind == "dense":
        target = {"dense": torch.rand(5, 4, dtype=torch.float64)}
    options = {"class_weight": torch.rand(4, dtype=torch.float64), "sample_weight": torch.rand(5, dtype=torch.float64)}
    assert torch.autograd.gradcheck(
        lambda z: soft_cross_entropy(z, **target, smoothing=0.2, reduction=reduction, **options), logits
    )


def test_dense_target_that_requires_grad(backend):
    logits, dense = make(6, 5), torch.rand(6, 5, dtype=torch.float64, requires_grad=True)
    loss = soft_cross_entropy(logits, dense=dense, smoothing=0.1)
    expected = functional.cross_entropy(logits, dense, label_smoothing=0.1)
    ours, theirs = (torch.autograd.grad(value, (logits, dense)) for value in (loss, expected))
    torch.testing.assert_close(ours, theirs, **EXACT)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_backward_modes_agree(backend, reduction):
    logits, labels = make(40, 11, torch.float32), torch.arange(40) % 11
    gradients = []
    for mode in ("auto", "store", "recompute"):
        loss = soft_cross_entropy(logits, labels, smoothing=0.1, reduction=reduction, backward=mode)
        gradients.append(torch.autograd.grad((3.5 * loss).sum(), logits)[0])
    for gradient in gradients[1:]:
        torch.testing.assert_close(gradient, gradients[0], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("mode", ["auto", "store", "recompute"])
def test_backward_twice(backend, mode):
    logits, labels = make(8, 5, torch.float32), torch.arange(8) % 5
    loss = soft_cross_entropy(logits, labels, backward=mode)
    once = torch.autograd.grad(loss, logits, torch.tensor(2.0), retain_graph=True)[0].clone()
    again = torch.autograd.grad(loss, logits, torch.tensor(1.0))[0]
    torch.testing.assert_close(2 * again, once)


@pytest.mark.parametrize("mode", ["auto", "store", "recompute"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("inplace", [False, True])
def test_as_many_backward_passes_as_the_graph_is_kept_for(backend, mode, dtype, inplace):
    leaf, labels = make(8, 5, dtype), torch.arange(8) % 5
    labels[2] = -100
    logits = leaf * 1.0
    loss = soft_cross_entropy(logits, labels, backward=mode, inplace=inplace)
    expected = torch.autograd.grad(functional.cross_entropy(leaf.float(), labels), leaf)[0]
    close = {"rtol": 1e-5, "atol": 1e-7} if dtype == torch.float32 else {"rtol": 2e-3, "atol": 1e-4}
    for factor in (0.5, 2.0, 1.0):
        (grad,) = torch.autograd.grad(loss, logits, torch.tensor(factor), retain_graph=True)
        torch.testing.assert_close(grad, factor * expected, **close)
        grad.mul_(100)  # what is handed out is the caller's
    (3 * loss + loss).backward()
    torch.testing.assert_close(leaf.grad, 4 * expected, **close)


def test_gradients_of_several_tasks(backend):
    # GradNorm, PCGrad: each task's gradient on what they share, then all of them together.
    shared = torch.randn(6, 4, requires_grad=True)
    heads = [torch.randn(4, 5, requires_grad=True) for _ in range(3)]
    labels = torch.randint(5, (3, 6))
    results = []
    for one in (soft_cross_entropy, functional.cross_entropy):
        losses = [one(shared @ head, row) for head, row in zip(heads, labels, strict=True)]
        norms = torch.stack([torch.autograd.grad(loss, shared, retain_graph=True)[0].norm() for loss in losses])
        total = sum(loss * norm for loss, norm in zip(losses, norms / norms.sum(), strict=True))
        results.append((norms, torch.autograd.grad(total, [shared, *heads])))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing(backend, reentrant):
    x, head, labels = torch.randn(6, 4, requires_grad=True), torch.randn(4, 5, requires_grad=True), torch.arange(6) % 5

    def step(v, w):
        return soft_cross_entropy(v @ w, labels, smoothing=0.1)

    found = torch.utils.checkpoint.checkpoint(step, x, head, use_reentrant=reentrant)
    (found * 3).backward()
    expected = torch.autograd.grad(3 * step(x, head), (x, head))
    torch.testing.assert_close((x.grad, head.grad), expected)


@pytest.mark.parametrize("classes", [1000, 32000])
@pytest.mark.parametrize("mode", ["auto", "recompute"])
def test_float16_under_a_loss_scale(backend, classes, mode):
    # GradScaler's first scale, against torch's loss: the error at classes that are not the label's.
    rows = 64
    z = make(rows, classes, torch.float16, scale=1.0)
    labels = torch.arange(rows) * 7 % classes
    gradients = []
    for loss in (
        soft_cross_entropy(z, labels, backward=mode),
        functional.cross_entropy(z.float(), labels),
    ):
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
        gradients.append(torch.autograd.grad(scaler.scale(loss), z)[0].double())
    ours, torchs = gradients
    p = z.detach().double().softmax(1) * (2.0**16 / rows)
    others = torch.ones_like(p, dtype=torch.bool).scatter_(1, labels[:, None], False)
    error, least = (((g - p)[others].abs() / p[others]).max() for g in (ours, torchs))
    assert error <= 2 * least
    assert not ((ours == 0) & (torchs != 0)).any()


def test_inplace(backend):
    logits, labels = make(16, 9, torch.float32), torch.arange(16) % 9
    before = logits.detach().clone()
    expected = torch.autograd.grad(soft_cross_entropy(logits, labels), logits)[0]
    assert torch.equal(logits, before)
    hidden = logits * 1.0  # a leaf's memory is not ours to take
    got = torch.autograd.grad(soft_cross_entropy(hidden, labels, inplace=True), logits)[0]
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("form", ["leaf", "view of a leaf", "view", "gaps", "expanded", "overlapping", "transposed"])
def test_inplace_of_memory_that_others_use(backend, form):
    leaf, labels = make(8, 8, torch.float32), torch.arange(8) % 8
    hidden = leaf * 1.0
    z = {
        "leaf": leaf, "view of a leaf": leaf[2:], "view": hidden[:, :], "gaps": hidden[:, :5],
        "expanded": hidden[:1].expand(8, 8), "overlapping": hidden.as_strided((8, 8), (4, 1)), "transposed": hidden.t(),
    }[form]  # fmt: skip
    labels = labels[: len(z)] % z.shape[1]
    labels[1] = -100
    rest = hidden.detach()[:, 5:].clone()
    plain = z.detach().clone().requires_grad_()
    expected = torch.autograd.grad(0.5 * functional.cross_entropy(plain, labels), plain)[0]
    values = leaf.detach().clone()
    loss = 0.5 * soft_cross_entropy(z, labels, inplace=True)
    (got,) = torch.autograd.grad(loss, z)
    torch.testing.assert_close(got, expected)
    assert torch.equal(leaf, values)
    if form in ("gaps", "expanded", "overlapping"):
        assert torch.equal(hidden.detach()[:, 5:], rest)


def test_without_grad(backend):
    logits, labels = make(16, 9, torch.float32), torch.arange(16) % 9
    with torch.no_grad():
        loss = soft_cross_entropy(logits, labels)
    assert not loss.requires_grad
    torch.testing.assert_close(loss, soft_cross_entropy(logits, labels).detach())
    assert not soft_cross_entropy(logits.detach(), labels).requires_grad


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_compiles_whole(backend, reduction):
    torch.compiler.reset()

    @torch.compile(fullgraph=True, backend="aot_eager")
    def step(z: Tensor, first: Tensor, second: Tensor, weight: Tensor, smoothing: Tensor) -> Tensor:
        hidden = z * 1.5
        return soft_cross_entropy(hidden, first, second, weight, smoothing=smoothing, reduction=reduction).sum()

    first, second = torch.randint(7, (2, 12))
    for weight, smoothing in ((0.25, 0.1), (0.5, 0.2)):
        logits = make(12, 7, torch.float32)
        loss = step(logits, first, second, torch.tensor(weight), torch.tensor(smoothing))
        expected = soft_cross_entropy(
            logits * 1.5, first, second, weight, smoothing=smoothing, reduction=reduction
        ).sum()
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(torch.autograd.grad(loss, logits), torch.autograd.grad(expected, logits))


def test_autocast(backend):
    head, x = torch.nn.Linear(6, 4), torch.randn(10, 6)
    labels = torch.arange(10) % 4
    with torch.autocast("cpu", torch.bfloat16):
        logits = head(x)
        loss = soft_cross_entropy(logits, labels, smoothing=0.1)
        expected = functional.cross_entropy(logits, labels, label_smoothing=0.1)
    assert logits.dtype == torch.bfloat16 and loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert head.weight.grad is not None and head.weight.grad.dtype == torch.float32


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_random_calls(backend, data):
    rows, classes = data.draw(st.integers(1, 70)), data.draw(st.integers(1, 40))
    seed = data.draw(st.integers(0, 2**31))
    generator = torch.Generator().manual_seed(seed)
    logits = (
        torch.randn(rows, classes, generator=generator, dtype=torch.float64)
        * data.draw(st.sampled_from([0.1, 5.0, 80.0]))
    ).requires_grad_()
    first, second = torch.randint(classes, (2, rows), generator=generator)
    smoothing = data.draw(st.sampled_from([0.0, 0.1, 0.9]))
    weight: float | Tensor = 1.0
    if data.draw(st.booleans()):
        weight = torch.rand(rows, generator=generator, dtype=torch.float64)
    else:
        weight = data.draw(st.floats(0, 1))
    class_weight = torch.rand(classes, generator=generator, dtype=torch.float64) if data.draw(st.booleans()) else None
    sample_weight = torch.rand(rows, generator=generator, dtype=torch.float64) if data.draw(st.booleans()) else None
    q = oracle.mixture(first, second, weight, smoothing, classes)
    q = q if class_weight is None else q * class_weight
    expected, gradient = oracle.losses(logits, q)
    factor = torch.ones(rows, dtype=torch.float64) if sample_weight is None else sample_weight
    loss = soft_cross_entropy(
        logits, first, second, weight, smoothing=smoothing, class_weight=class_weight, sample_weight=sample_weight,
    )  # fmt: skip
    torch.testing.assert_close(loss, (expected * factor).sum() / factor.sum(), rtol=1e-11, atol=1e-12)
    got = torch.autograd.grad(loss, logits)[0]
    torch.testing.assert_close(got, gradient * factor.unsqueeze(1) / factor.sum(), rtol=1e-10, atol=1e-12)
