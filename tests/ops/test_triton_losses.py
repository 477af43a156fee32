"""The loss kernels under Triton's interpreter, against float64."""

from __future__ import annotations

import os

import pytest
import torch

pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("with a GPU tests/gpu runs the kernels themselves", allow_module_level=True)

from regfast.ops.reference.feature_stats import feature_stats as reference_feature_stats
from regfast.ops.triton import launch, linear_soft_cross_entropy, soft_cross_entropy
from regfast.ops.triton.feature_stats import feature_stats
from tests.ops import oracle
from tests.ops.losses import check_rows_without_softmax, of
from tests.ops.triton_inputs import labels, logits, poisoned, strided, unaligned

__all__ = ["poisoned"]

reference, triton = of("reference"), of("triton")
TARGETS = ("index", "mixed", "dense")
STATS = ("log_partition", "confidence", "entropy", "margin", "rms", "cosine", "cosine_predicted")


@pytest.fixture(params=["one shot", "two passes"])
def passes(request, monkeypatch):
    if request.param == "two passes":
        monkeypatch.setattr(soft_cross_entropy, "row_shape", lambda *_: {"ROWS": 1, "BLOCK": 8, "num_warps": 4})
    return request.param


def target(kind: str, rows: int, classes: int) -> dict[str, object]:
    first = labels(rows, classes)
    if kind == "index":
        return {"first": first, "index_target": True}
    if kind == "mixed":
        return {"first": first, "second": first.roll(1), "lam": torch.rand(rows)}
    return {"dense": torch.rand(rows, classes)}


def wide(arguments: dict[str, object]) -> dict[str, object]:
    return {k: v.double() if isinstance(v, torch.Tensor) and v.is_floating_point() else v for k, v in arguments.items()}


def compare(z, arguments, *, rtol=1e-6, grad_rtol=1e-5):
    """Loss and gradient against the reference in float64, for an incoming gradient that is not 1."""
    ours, exact = z.detach().clone().requires_grad_(), z.detach().double().requires_grad_()
    opposite = (-exact.detach()).requires_grad_()
    loss = triton.soft_cross_entropy(ours, **arguments)
    expected, against = (
        reference.soft_cross_entropy(leaf, **{k: v for k, v in wide(arguments).items() if k != "backward"})
        for leaf in (exact, opposite)
    )
    incoming = torch.linspace(0.5, 2.0, max(loss.numel(), 1))[: loss.numel()].view(loss.shape)
    loss.backward(incoming)
    expected.backward(incoming.double())
    against.backward(incoming.double())
    # Of a row that is sure of its label both are near 0, the difference of terms as large as those of the opposite row.
    scale, grad_scale = (
        max(a.abs().max().item(), b.abs().max().item()) if a.numel() else 0.0
        for a, b in ((expected, against), (exact.grad, opposite.grad))
    )
    # Of one class all of it is 0, but for the reference's own rounding in float64.
    rounding = 4 * torch.finfo(torch.float64).eps * (1 + exact.detach()[exact.isfinite()].abs().sum().item())
    torch.testing.assert_close(loss.double(), expected, rtol=0, atol=rtol * scale + rounding, equal_nan=True)
    torch.testing.assert_close(ours.grad.double(), exact.grad, rtol=0, atol=grad_rtol * grad_scale + rounding)


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("backward", ["store", "recompute"])
@pytest.mark.parametrize("weighted", [False, True])
def test_loss_and_gradient(passes, kind, reduction, backward, weighted):
    arguments = {"reduction": reduction, "backward": backward, "smoothing": 0.1 if weighted else 0.0}
    if weighted:
        arguments |= {"class_weight": torch.rand(11), "sample_weight": torch.rand(5)}
    compare(logits(5, 11), target(kind, 5, 11) | arguments)


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("classes", [1, 2, 10, 33, 1000, 1003])
def test_any_number_of_classes(kind, classes):
    compare(logits(3, classes), target(kind, 3, classes) | {"smoothing": torch.tensor(0.1)})


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("classes", [21841, 65537])
def test_many_classes(kind, classes):
    compare(logits(2, classes), target(kind, 2, classes) | {"smoothing": 0.1})


@pytest.mark.parametrize("rows", [0, 1, 65, 130])
def test_any_number_of_rows(rows):
    compare(logits(rows, 10), target("index", rows, 10) | {"reduction": "sum"})
    compare(logits(rows, 10), target("mixed", rows, 10) | {"reduction": "none", "lam": 0.3})


def test_a_mean_of_nothing_is_nan():
    assert triton.soft_cross_entropy(logits(0, 3), labels(0, 3)).isnan()


@pytest.mark.parametrize("form", [unaligned, strided, torch.Tensor.t])
@pytest.mark.parametrize("kind", ["index", "dense"])
def test_memory_of_any_form(passes, form, kind):
    z = form(logits(11, 11))
    arguments = target(kind, 11, 11)
    if kind == "dense":
        arguments["dense"] = form(arguments["dense"])
    ours = triton.soft_cross_entropy(z.requires_grad_(), **arguments)
    expected = reference.soft_cross_entropy(z.double(), **wide(arguments))
    torch.testing.assert_close(ours.double(), expected, rtol=1e-6, atol=1e-6)
    (grad,) = torch.autograd.grad(ours, z)
    exact = z.detach().double().requires_grad_()
    reference.soft_cross_entropy(exact, **wide(arguments)).backward()
    torch.testing.assert_close(grad.double(), exact.grad, rtol=1e-5, atol=3e-7)


@pytest.mark.parametrize("kind", TARGETS)
def test_ignored_rows_are_zero_and_bad_labels_nan(passes, kind):
    z, arguments = logits(6, 7), target(kind, 6, 7)
    if kind == "dense":
        z[2] = torch.nan
    else:
        arguments["first"][1] = -100
        z[1] = torch.nan
        arguments["first"][2] = 7
        arguments["first"][3] = -1
        if kind == "mixed":
            arguments["second"][4] = 1 << 40
    z.requires_grad_()
    loss = triton.soft_cross_entropy(z, **arguments, reduction="none", smoothing=0.1)
    loss.nansum().backward()
    bad = {"index": [2, 3], "mixed": [2, 3, 4], "dense": [2]}[kind]
    assert loss.isnan().nonzero().flatten().tolist() == bad
    assert torch.autograd.functional.jacobian(lambda x: x.sum(), loss).shape == (6,)
    if kind != "dense":
        assert loss[1] == 0 and (z.grad[1] == 0).all()
    total = triton.soft_cross_entropy(z, **arguments, reduction="mean", smoothing=0.1)
    total.backward()
    assert z.grad[bad].isnan().all()
    assert not z.grad[[row for row in range(6) if row not in bad]].isnan().any()


def test_the_mean_divides_by_rows_that_count():
    arguments = target("index", 6, 7)
    arguments["first"][::2] = -100
    compare(logits(6, 7), arguments)
    compare(logits(6, 7), arguments | {"backward": "recompute"})


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_minus_infinity(passes, smoothing):
    z = logits(4, 9)
    z[:, 3] = -torch.inf
    first = torch.tensor([0, 1, 2, 8])
    loss = triton.soft_cross_entropy(z.requires_grad_(), first, reduction="none", smoothing=smoothing)
    expected = reference.soft_cross_entropy(z.double(), first, reduction="none", smoothing=smoothing)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=1e-6)
    (grad,) = torch.autograd.grad(loss.sum(), z)
    assert grad.isfinite().all()
    dense = torch.rand(4, 9)
    dense[:, 3] = 0
    loss = triton.soft_cross_entropy(z, dense=dense, reduction="none")
    expected = reference.soft_cross_entropy(z.double(), dense=dense.double(), reduction="none")
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_finite_logits_however_low(passes, kind, smoothing):
    z = torch.full((6, 21), -2e30)
    z[1, :8] = -torch.inf  # the first tile, of some columns every entry
    z[2, ::3], z[2, 5] = -torch.inf, -1.5e30
    z[3], z[3, 17] = -torch.inf, -3e38
    z[4] = logits(1, 21)[0]
    z[5] = -torch.inf
    arguments = {"first": torch.tensor([3, 20, 5, 17, 4, 0])}
    if kind == "mixed":
        arguments |= {"second": torch.tensor([4, 12, 5, 17, 0, 0]), "lam": 0.25}
    if kind == "dense":
        arguments = {"dense": torch.nn.functional.one_hot(arguments["first"], 21).float()}
    arguments |= {"reduction": "none", "smoothing": smoothing}
    ours, exact = z.clone().requires_grad_(), z.double().requires_grad_()
    loss, stats = triton.soft_cross_entropy_stats(ours, **arguments)
    right, right_stats = reference.soft_cross_entropy_stats(exact, **wide(arguments))
    torch.testing.assert_close(loss.double(), right, rtol=1e-6, atol=1e-6, equal_nan=True)
    assert loss[5].isnan() and not loss[:5].isnan().any()
    for name in ("log_partition", "confidence", "prediction", "entropy", "margin"):
        found, expected = getattr(stats, name).double(), getattr(right_stats, name).double()
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6, equal_nan=True, msg=name)
    loss.sum().backward()
    right.sum().backward()
    torch.testing.assert_close(ours.grad.double()[:5], exact.grad[:5], rtol=1e-6, atol=3e-7)
    assert ours.grad[5].isnan().all()


@pytest.mark.parametrize("kind", TARGETS)
def test_a_large_offset_loses_nothing(passes, kind):
    z = (logits(4, 40) * 64).round() / 64  # exact with the offset
    arguments = target(kind, 4, 40) | {"reduction": "none", "smoothing": 0.1}
    if kind == "dense":
        arguments["dense"] = arguments["dense"].softmax(1)
    with_offset = triton.soft_cross_entropy(z + 1e4, **arguments)
    torch.testing.assert_close(with_offset, triton.soft_cross_entropy(z, **arguments), rtol=3e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", TARGETS)
def test_sixteen_bits_round_once(dtype, kind):
    z, arguments = logits(8, 300, dtype), target(kind, 8, 300) | {"reduction": "none", "smoothing": 0.1}
    ours, exact = z.clone().requires_grad_(), z.double().requires_grad_()
    loss = triton.soft_cross_entropy(ours, **arguments)
    assert loss.dtype == torch.float32
    loss.sum().backward()
    reference.soft_cross_entropy(exact, **wide(arguments)).sum().backward()
    assert oracle.within_an_ulp(ours.grad, exact.grad) > 0.999


def right(z, arguments, factor=1.0):
    """The reference's gradient in float64."""
    leaf = z.detach().double().requires_grad_()
    loss = reference.soft_cross_entropy(leaf, **wide(arguments))
    return torch.autograd.grad(loss, leaf, torch.full_like(loss, factor))[0]


@pytest.mark.parametrize("ignoring", [False, True])
@pytest.mark.parametrize("gap", [0, 5])
def test_inplace_puts_the_gradient_in_the_logits_memory(passes, ignoring, gap):
    arguments = target("index", 5, 9)
    if ignoring:
        arguments["first"][1] = -100
    leaf = torch.full((5, 9 + gap), 7.0)
    leaf[:, :9] = logits(5, 9)
    leaf.requires_grad_()
    z = Gap.apply(leaf)  # no view, and no leaf
    loss = triton.soft_cross_entropy(z, **arguments, inplace=True)
    loss.backward(torch.tensor(0.5))
    expected = right(leaf[:, :9], arguments, 0.5)
    torch.testing.assert_close(leaf.grad[:, :9].double(), expected, rtol=1e-5, atol=3e-7)
    torch.testing.assert_close(z.detach(), leaf.grad[:, :9], rtol=0, atol=0)
    assert leaf.grad[:, 9:].eq(0).all()
    assert torch.as_strided(z.detach(), (4, gap), (9 + gap, 1), 9).eq(7).all()


class Gap(torch.autograd.Function):
    """Its first nine columns, in memory of its own with gaps between the rows."""

    @staticmethod
    def forward(ctx, wide):
        ctx.columns = wide.shape[1]
        held = torch.empty_strided((len(wide), 9), (wide.shape[1], 1))
        torch.as_strided(held, (len(wide) - 1, wide.shape[1]), (wide.shape[1], 1)).fill_(7.0)
        return held.copy_(wide[:, :9])

    @staticmethod
    def backward(ctx, grad):
        return torch.nn.functional.pad(grad, (0, ctx.columns - 9))


@pytest.mark.parametrize("form", ["leaf", "view of a leaf", "view", "expanded", "transposed", "one row"])
def test_inplace_leaves_memory_that_is_not_its_own_alone(form):
    arguments = target("index", 5, 5)
    leaf = logits(5, 5).requires_grad_()
    hidden = leaf * 1.0
    z = {"leaf": leaf, "view of a leaf": leaf[:], "view": hidden[:, :], "expanded": hidden[:1].expand(5, 5),
         "transposed": hidden.t(), "one row": hidden[:1]}[form]  # fmt: skip
    if form == "one row":
        arguments = {"first": arguments["first"][:1]}
    before = z.detach().clone()
    loss = triton.soft_cross_entropy(z, **arguments, inplace=True)
    (own,) = torch.autograd.grad(loss, z, torch.tensor(0.5))
    torch.testing.assert_close(own.double(), right(before, arguments, 0.5), rtol=1e-5, atol=3e-7)
    if form != "transposed":
        assert torch.equal(z.detach(), before) and torch.equal(leaf.detach(), logits(5, 5))


@pytest.mark.parametrize("backward", ["auto", "store", "recompute"])
@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("ignoring", [False, True])
def test_backward_as_often_as_the_graph_is_kept(backward, inplace, ignoring):
    arguments = target("index", 5, 9)
    if ignoring:
        arguments["first"][2] = -100
    leaf = logits(5, 9).requires_grad_()
    z = leaf * 1.0
    loss = triton.soft_cross_entropy(z, **arguments, backward=backward, inplace=inplace)
    expected = right(leaf, arguments)
    for factor in (0.5, 2.0, 1.0):
        (grad,) = torch.autograd.grad(loss, z, torch.tensor(factor), retain_graph=True)
        torch.testing.assert_close(grad.double(), factor * expected, rtol=1e-5, atol=3e-7)
        grad.mul_(100)  # what is handed out is the caller's
    (loss * 4).backward()
    torch.testing.assert_close(leaf.grad.double(), 4 * expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


@pytest.mark.parametrize("reduction", ["none", "mean"])
@pytest.mark.parametrize("backward", ["auto", "recompute"])
def test_batched_gradients(reduction, backward):
    arguments = target("index", 6, 9) | {"reduction": reduction}
    arguments["first"][2] = -100
    z = logits(6, 9).requires_grad_()
    loss = triton.soft_cross_entropy(z, **arguments, backward=backward)
    incoming = torch.rand(3, *loss.shape)
    (found,) = torch.autograd.grad(loss, z, incoming, is_grads_batched=True, retain_graph=True)
    each = [torch.autograd.grad(loss, z, g, retain_graph=True)[0] for g in incoming]
    torch.testing.assert_close(found, torch.stack(each), rtol=1e-6, atol=1e-7)
    features, weight = torch.randn(6, 4, requires_grad=True), torch.randn(9, 4, requires_grad=True)
    loss = triton.linear_soft_cross_entropy(features, weight, None, arguments["first"])
    found = torch.autograd.grad(
        loss, (features, weight), incoming.flatten()[:3], is_grads_batched=True, retain_graph=True
    )
    for i in range(3):
        own = torch.autograd.grad(loss, (features, weight), incoming.flatten()[i], retain_graph=True)
        torch.testing.assert_close([t[i] for t in found], [*own])


def test_there_is_no_second_derivative():
    z = logits(3, 5).requires_grad_()
    features, weight = torch.randn(3, 4, requires_grad=True), torch.randn(5, 4, requires_grad=True)
    first = labels(3, 5)
    stats = triton.soft_cross_entropy_stats(z, first, features=features)[1]
    for value in (
        triton.soft_cross_entropy(z, first), triton.soft_cross_entropy(z, first, reduction="none"), stats.entropy,
        triton.linear_soft_cross_entropy(features, weight, None, first),
        feature_stats(features, torch.randn(5, 4), first).rms,
    ):  # fmt: skip
        with pytest.raises(RuntimeError, match="no second derivative"):
            torch.autograd.grad(value.sum(), [z, features, weight], create_graph=True, allow_unused=True)


@pytest.mark.parametrize("classes", [1000, 9000])
@pytest.mark.parametrize("function", ["loss", "stats", "linear"])
def test_a_float16_gradient_is_rounded_after_the_loss_scale(classes, function):
    rows, scale = 6, 2.0**16
    first = labels(rows, classes)
    features = (torch.randn(rows, 8) * 0.3).half().requires_grad_()
    weight = (torch.randn(classes, 8) * 0.3).half()
    z = (features.detach() @ weight.t()).requires_grad_()
    leaf, share = (features, 256.0) if function == "linear" else (z, 256.0)
    if function == "loss":
        loss = triton.soft_cross_entropy(z, first)
    elif function == "stats":
        loss = triton.soft_cross_entropy_stats(z, first)[0]
    else:
        loss = triton.linear_soft_cross_entropy(features, weight, None, first)
    (grad,) = torch.autograd.grad(loss / share * scale, leaf)
    exact = leaf.detach().double().requires_grad_()
    plain = exact if function != "linear" else exact @ weight.double().t()
    (expected,) = torch.autograd.grad(torch.nn.functional.cross_entropy(plain, first) / share * scale, exact)
    if function == "linear":
        assert (grad.double() - expected).norm() < 2e-3 * expected.norm()
    else:
        assert oracle.within_an_ulp(grad, expected) > 0.999 and not (grad == 0).any()


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("function", ["loss", "linear"])
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_z_loss(passes, kind, function, reduction):
    arguments = target(kind, 6, 13) | {"z_loss": 0.3, "reduction": reduction, "smoothing": 0.1}
    arguments |= {"class_weight": torch.rand(13), "sample_weight": torch.rand(6)}
    if kind != "dense":
        arguments["first"][2] = -100
    if function == "loss":
        for backward in ("store", "recompute"):
            compare(logits(6, 13), arguments | {"backward": backward})
        return
    inputs = [torch.randn(6, 5), torch.randn(13, 5), torch.randn(13)]
    ours, exact = [t.clone().requires_grad_() for t in inputs], [t.double().requires_grad_() for t in inputs]
    loss = triton.linear_soft_cross_entropy(*ours, **arguments)
    expected = reference.linear_soft_cross_entropy(*exact, **wide(arguments))
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
    for a, b in zip(torch.autograd.grad(loss.sum(), ours), torch.autograd.grad(expected.sum(), exact), strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("weighted", [False, True])
def test_a_mix_with_an_ignored_row_is_ignored(passes, weighted):
    arguments = target("mixed", 6, 7)
    arguments["first"][1], arguments["second"][3] = -100, -100
    if weighted:
        arguments["sample_weight"] = torch.rand(6)
    compare(logits(6, 7), arguments)
    compare(logits(6, 7), arguments | {"reduction": "none"})
    features, weight = torch.randn(6, 4), torch.randn(7, 4)
    found = triton.linear_soft_cross_entropy(features, weight, None, **arguments)
    expected = reference.linear_soft_cross_entropy(features.double(), weight.double(), None, **wide(arguments))
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize(("reduction", "backward"), [("none", "auto"), ("mean", "auto"), ("mean", "recompute")])
def test_gradients_of_statistics(passes, kind, reduction, backward):
    z, arguments = logits(7, 13), target(kind, 7, 13) | {"reduction": reduction, "smoothing": 0.1, "z_loss": 0.1}
    arguments |= {"class_weight": torch.rand(13), "sample_weight": torch.rand(7)}
    z[3, 5] = z[3].max()  # a tie of the largest
    z[4, ::2] = -torch.inf if kind == "index" else -30.0
    if kind != "dense":
        arguments["first"][2] = -100
        arguments["first"][4] = 1
        z[2] = torch.nan
    names = ("loss", "log_partition", "confidence", "entropy", "margin")
    factors = torch.rand(len(names), 7)
    factors[:, 2] = 0
    gradients = []
    for family, dtype in ((triton, torch.float32), (reference, torch.float64)):
        leaf = z.to(dtype).requires_grad_()
        given = arguments if dtype == torch.float32 else wide(arguments)
        loss, stats = family.soft_cross_entropy_stats(leaf, **given, backward=backward)
        each = [(getattr(stats, n).nan_to_num() * factor).sum() for n, factor in zip(names, factors, strict=True)]
        totals = [*each, sum(each) + loss.sum()]
        gradients.append([torch.autograd.grad(total, leaf, retain_graph=True)[0].double() for total in totals])
    for name, found, right in zip((*names, "all"), *gradients, strict=True):
        torch.testing.assert_close(found, right, rtol=1e-5, atol=2e-6, msg=lambda m, s=name: f"{s}: {m}")


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("given", ["nothing", "features", "centers"])
def test_statistics(passes, kind, given):
    z, arguments = logits(6, 13), target(kind, 6, 13)
    features = None if given == "nothing" else torch.randn(6, 21)
    centers = torch.randn(13, 21) if given == "centers" else None
    if kind != "dense":
        arguments["first"][2] = -100
    loss, stats = triton.soft_cross_entropy_stats(z, **arguments, features=features, centers=centers)
    geometry = {"features": features, "centers": centers}
    expected_loss, expected = reference.soft_cross_entropy_stats(z.double(), **wide(arguments | geometry))
    torch.testing.assert_close(loss.double(), expected_loss, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(stats.loss.double(), expected.loss, rtol=1e-6, atol=1e-6)
    assert torch.equal(stats.prediction, expected.prediction)
    for name in STATS:
        found, right = getattr(stats, name), getattr(expected, name)
        assert (found is None) == (right is None)
        if right is not None:
            torch.testing.assert_close(found.double(), right, rtol=1e-5, atol=2e-6, equal_nan=True, msg=name)


def test_statistics_of_rows_without_softmax(passes):
    check_rows_without_softmax(triton.soft_cross_entropy_stats, 13)


def test_statistics_of_ties_and_one_class(passes):
    z = torch.tensor([[1.0, 2.0, 2.0, 0.0], [5.0, 5.0, 5.0, 5.0]])
    _, stats = triton.soft_cross_entropy_stats(z, torch.tensor([2, 3]))
    assert stats.prediction.tolist() == [1, 0]
    assert stats.margin.tolist() == [0.0, 0.0]
    _, stats = triton.soft_cross_entropy_stats(z[:, :1], torch.tensor([0, 0]))
    assert stats.margin.tolist() == [torch.inf, torch.inf]


@pytest.mark.parametrize("predicted", [False, True])
def test_feature_gradients(predicted):
    features, centers = torch.randn(5, 19), torch.randn(7, 19)
    features[3] = 0
    first, predictions = torch.tensor([0, 6, -100, 2, 3]), labels(5, 7) if predicted else None
    ours, exact = features.clone().requires_grad_(), features.double().requires_grad_()
    found = feature_stats(ours, centers, first, predictions)
    right = reference_feature_stats(exact, centers.double(), first, predictions)
    assert (found.cosine_predicted is None) == (not predicted)
    for a, b in zip(found, right, strict=True):
        if b is not None:
            torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-6, equal_nan=True)
    sum(s.nansum() for s in found if s is not None).backward()
    sum(s.nansum() for s in right if s is not None).backward()
    torch.testing.assert_close(ours.grad.double(), exact.grad, rtol=1e-5, atol=1e-6)


def test_statistics_carry_gradients_to_features_unless_told_otherwise():
    z, first, centers = logits(5, 7), labels(5, 7), torch.randn(7, 4)
    features = torch.randn(5, 4, requires_grad=True)
    _, stats = triton.soft_cross_entropy_stats(z, first, features=features, centers=centers)
    assert stats.rms.requires_grad and not stats.entropy.requires_grad
    _, stats = triton.soft_cross_entropy_stats(z, first, features=features, centers=centers, feature_grad=False)
    assert not stats.rms.requires_grad
    _, stats = triton.soft_cross_entropy_stats(z.requires_grad_(), first, features=features, centers=centers)
    assert stats.cosine.requires_grad and stats.entropy.requires_grad
    (stats.rms.sum() + stats.cosine.sum() + stats.cosine_predicted.sum()).backward()
    exact = features.detach().double().requires_grad_()
    right = reference_feature_stats(exact, centers.double(), first, z.argmax(1))
    (right.rms.sum() + right.cosine.sum() + right.cosine_predicted.sum()).backward()
    torch.testing.assert_close(features.grad.double(), exact.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", TARGETS)
def test_linear_of_transposed_features(kind):
    arguments = target(kind, 17, 10)
    features, weight = torch.randn(32, 17).t().requires_grad_(), torch.randn(10, 32, requires_grad=True)
    exact = [leaf.detach().double().requires_grad_() for leaf in (features, weight)]
    found = torch.autograd.grad(triton.linear_soft_cross_entropy(features, weight, None, **arguments) * 2.7, features)
    expected = reference.linear_soft_cross_entropy(*exact, None, **wide(arguments)) * 2.7
    # A logit is off by an ulp of its sum's terms, its probability by as much of itself, and so each share of a row.
    mass = arguments["dense"].sum(1).max() if kind == "dense" else 1.0
    size = mass * 2.7 / 17 * weight.abs().max() * (features.abs() @ weight.abs().t()).max()
    atol = torch.finfo(torch.float32).eps * size.item()
    torch.testing.assert_close(found[0].double(), torch.autograd.grad(expected, exact[0])[0], rtol=1e-5, atol=atol)


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("reduction", ["none", "mean"])
@pytest.mark.parametrize("weighted", [False, True])
def test_linear(monkeypatch, kind, reduction, weighted):
    monkeypatch.setattr(linear_soft_cross_entropy, "_BYTES", 1)  # chunks of three rows
    monkeypatch.setattr(linear_soft_cross_entropy, "_LEAST_ROWS", 1)
    arguments = target(kind, 7, 11) | {"reduction": reduction, "smoothing": 0.1}
    if weighted:
        arguments |= {"class_weight": torch.rand(11), "sample_weight": torch.rand(7)}
    inputs = [torch.randn(7, 5), torch.randn(11, 5), torch.randn(11)]
    ours, exact = [t.clone().requires_grad_() for t in inputs], [t.double().requires_grad_() for t in inputs]
    loss = triton.linear_soft_cross_entropy(*ours, **arguments)
    expected = reference.linear_soft_cross_entropy(*exact, **wide(arguments))
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
    incoming = torch.rand(loss.shape)
    loss.backward(incoming)
    expected.backward(incoming.double())
    for a, b in zip(ours, exact, strict=True):
        torch.testing.assert_close(a.grad.double(), b.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_one_graph_under_compile(reduction):
    # Custom ops behave the same in every backend of torch.compile; this one needs no C++ compiler.
    def loss(z, first, second, mix, features, centers):
        value, stats = triton.soft_cross_entropy_stats(
            z,
            first,
            second,
            mix,
            features=features,
            centers=centers,
            smoothing=0.1,
            reduction=reduction,
            feature_grad=True,
        )
        return value.sum() + stats.cosine.sum() + stats.entropy.sum()

    first = labels(6, 8)
    constants = (first, first.roll(1), torch.rand(6))
    results = []
    torch._dynamo.reset()
    for run in (loss, torch.compile(loss, backend="aot_eager", fullgraph=True)):
        z, features = logits(6, 8).requires_grad_(), logits(6, 5).requires_grad_()
        value = run(z, *constants, features, logits(8, 5))
        value.backward()
        results.append((value.detach(), z.grad, features.grad))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=3e-7)


def test_float64_is_refused():
    with pytest.raises(TypeError, match="float64"):
        triton.soft_cross_entropy(logits(2, 3, torch.float64), labels(2, 3))


def test_shapes_cover_every_row():
    for classes in (1, 2, 31, 32, 1000, launch.ONE_SHOT_LIMIT):
        for heavy in range(3):
            shape = launch.row_shape(classes, 4, heavy)
            assert (shape["BLOCK"] >= classes) == (classes <= launch.ONE_SHOT_LIMIT >> heavy) and shape["ROWS"] >= 1
    for classes in (launch.ONE_SHOT_LIMIT + 1, 40000, 151936):
        for size in (2, 4):
            shape = launch.row_shape(classes, size)
            assert shape["BLOCK"] * size == shape["num_warps"] * launch.LANES * 16 <= 1024 * 16  # 16 bytes a thread


def test_the_counter_of_a_compiled_call_is_its_own(monkeypatch):
    # What lies in a CUDA graph's memory pool is taken back by its next run: it must not stay in a global.
    zeros, made = torch.zeros, []

    def on_cpu(*shape, device, **options):
        made.append(zeros(*shape, **options))
        return made[-1]

    monkeypatch.setattr(torch, "zeros", on_cpu)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: type("Stream", (), {"cuda_stream": 1})())
    monkeypatch.setattr(launch, "_counters", {})
    device = torch.device("cuda", 0)
    assert launch.counter(device, True) is not launch.counter(device, True)
    assert not launch._counters
    assert launch.counter(device) is launch.counter(device) and len(made) == 3


def test_scalars_on_the_cpu_are_numbers_to_other_devices():
    # Copying one to the device would make the host wait for it.
    assert soft_cross_entropy.number(torch.tensor(0.25), torch.device("meta")) == (None, 0.25)


@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_batched_gradients_of_statistics(reduction):
    arguments = target("index", 6, 9) | {"reduction": reduction}
    arguments["first"][2] = -100
    z, features = logits(6, 9).requires_grad_(), torch.randn(6, 4, requires_grad=True)
    loss, stats = triton.soft_cross_entropy_stats(z, **arguments, features=features, centers=torch.randn(9, 4))
    # Together with the loss, where autograd hands over all of them at once.
    both = loss.sum() + (stats.entropy * stats.log_partition).nansum() + (stats.rms * stats.cosine).nansum()
    for output in (loss, stats.entropy, stats.margin, stats.rms, stats.cosine, stats.cosine_predicted, both):
        incoming = torch.rand(3, *output.shape)
        found = torch.autograd.grad(
            output, (z, features), incoming, is_grads_batched=True, retain_graph=True, allow_unused=True
        )
        each = [torch.autograd.grad(output, (z, features), g, retain_graph=True, allow_unused=True) for g in incoming]
        for own, parts in zip(found, zip(*each, strict=True), strict=True):
            assert (own is None) == (parts[0] is None)
            if own is not None:
                torch.testing.assert_close(own, torch.stack(parts), rtol=1e-5, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("feature_grad", [True, False])
def test_statistics_without_a_gradient_say_so(feature_grad):
    z, features = logits(4, 5).requires_grad_(), torch.randn(4, 3, requires_grad=not feature_grad)
    for logits_grad in (True, False):
        _, stats = triton.soft_cross_entropy_stats(
            z.detach().requires_grad_(logits_grad), **target("index", 4, 5), features=features,
            centers=torch.randn(5, 3), feature_grad=feature_grad,
        )  # fmt: skip
        assert not any(value.requires_grad for value in (stats.rms, stats.cosine, stats.cosine_predicted))
        assert stats.entropy.requires_grad == stats.log_partition.requires_grad == logits_grad


def test_lazily_negated_logits():
    z, first = torch._neg_view(logits(6, 9)), labels(6, 9)
    torch.testing.assert_close(
        triton.soft_cross_entropy(z, first=first, index_target=True),
        reference.soft_cross_entropy(z, first=first, index_target=True),
    )
