from __future__ import annotations

import numpy as np
import pytest
import torch
import torch._dynamo.testing
from torch.nn import functional

import regfast
from regfast import SoftTargets, smooth

LABELS = torch.arange(8) % 5


def logits() -> torch.Tensor:
    return torch.randn(8, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, torch.tensor(0.3, dtype=torch.float64)])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("weighted", [False, True])
def test_every_kind_of_target(label_smoothing, reduction, weighted):
    z, weight = logits(), torch.rand(5, dtype=torch.float64) if weighted else None
    mixed = SoftTargets(LABELS, LABELS.roll(1), 0.3, 0.2, num_classes=5)
    for target, same in ((LABELS, LABELS), (mixed.dense(z.dtype), mixed.dense(z.dtype)), (mixed, mixed.dense(z.dtype))):
        ours = regfast.soft_cross_entropy(
            z, target, class_weight=weight, label_smoothing=label_smoothing, reduction=reduction
        )
        theirs = functional.cross_entropy(z, same, weight, label_smoothing=float(label_smoothing), reduction=reduction)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_ignore_index_of_structured_targets():
    z, first = logits(), LABELS.clone()
    first[2] = -100
    target = smooth(first, 5, 0.1)
    mean = regfast.soft_cross_entropy(z, target)
    kept = first >= 0
    torch.testing.assert_close(mean, functional.cross_entropy(z[kept], smooth(first[kept], 5, 0.1).dense(z.dtype)))
    other = regfast.soft_cross_entropy(z, smooth(LABELS, 5, 0.1), ignore_index=3, reduction="none")
    assert (other == 0).tolist() == (LABELS == 3).tolist()


@pytest.mark.parametrize("lam", [0.0, 1.0, 0.4])
def test_an_ignored_class_ignores_the_row_whatever_its_share(lam):
    target = SoftTargets(torch.tensor([0, -100, 1]), torch.tensor([-100, 1, 2]), lam, num_classes=3)
    tensor = SoftTargets(target.first, target.second, torch.tensor(lam), num_classes=3)
    for given in (target, tensor, target[:], target.to("cpu"), SoftTargets.cat([target[:1], target[1:]])):
        loss = regfast.soft_cross_entropy(torch.zeros(3, 3), given, reduction="none")
        torch.testing.assert_close(loss, torch.tensor([1.0, 1.0, 3.0]).log())


def test_statistics_and_loss_come_together():
    z, features, centers = logits(), torch.randn(8, 3).double(), torch.randn(5, 3).double()
    loss, stats = regfast.soft_cross_entropy_stats(z, smooth(LABELS, 5, 0.1), features, centers)
    torch.testing.assert_close(loss, regfast.soft_cross_entropy(z, LABELS, label_smoothing=0.1))
    geometry = regfast.feature_stats(features, centers, LABELS, stats.prediction)
    torch.testing.assert_close(stats.cosine, geometry.cosine)
    torch.testing.assert_close(stats.cosine_predicted, geometry.cosine_predicted)
    torch.testing.assert_close(stats.rms, features.norm(dim=1) / 3**0.5)
    assert set(stats._fields) == {
        "loss", "log_partition", "confidence", "prediction", "entropy", "margin", "rms", "cosine", "cosine_predicted",
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["index", "dense", "structured"])
def test_linear(kind):
    features, weight, bias = torch.randn(8, 3), torch.randn(5, 3), torch.randn(5)
    target = {"index": LABELS, "dense": torch.rand(8, 5), "structured": smooth(LABELS, 5, 0.1)}[kind]
    torch.testing.assert_close(
        regfast.linear_soft_cross_entropy(features, weight, bias, target, label_smoothing=0.2),
        regfast.soft_cross_entropy(functional.linear(features, weight, bias), target, label_smoothing=0.2),
    )


@pytest.mark.parametrize("shape", [(), (2, 3), (2, 0), (2, 3, 2)])
def test_linear_takes_what_a_linear_layer_takes(shape):
    features = torch.randn(*shape, 4, dtype=torch.float64, requires_grad=True)
    weight, bias = torch.randn(5, 4, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    z = functional.linear(features, weight, bias)
    first, counts = torch.randint(5, shape), torch.rand(shape, dtype=torch.float64)
    q = torch.rand(*shape, 5, dtype=torch.float64)
    mixed = SoftTargets(first, first.flip(0) if shape else first, torch.rand(shape[:1]).double(), 0.1, num_classes=5)
    for target, same in ((first, first), (q, q.movedim(-1, min(1, len(shape)))), (mixed, mixed)):
        for reduction in ("none", "mean"):
            options = {"reduction": reduction, "sample_weight": counts}
            ours = regfast.linear_soft_cross_entropy(features, weight, bias, target, **options)
            right = regfast.soft_cross_entropy(z.movedim(-1, min(1, len(shape))), same, **options)
            torch.testing.assert_close(ours, right, rtol=0, atol=1e-12, equal_nan=True)
            gradients = (torch.autograd.grad(loss.sum(), features, retain_graph=True)[0] for loss in (ours, right))
            torch.testing.assert_close(*gradients, rtol=0, atol=1e-12, equal_nan=True)
    if len(shape) == 2:
        with pytest.raises(ValueError, match=r"target must have shape \(2, \d\), got \(2,\)"):
            regfast.linear_soft_cross_entropy(features, weight, bias, torch.zeros(2, dtype=torch.int64))
        with pytest.raises(ValueError, match=r"probability target must have shape \(2, \d, 5\), got \(2, 5, \d\)"):
            regfast.linear_soft_cross_entropy(features, weight, bias, q.mT)


def test_linear_under_autocast_is_the_autocast_linear_layer():
    features, weight = torch.randn(8, 3, requires_grad=True), torch.randn(5, 3, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        ours = regfast.linear_soft_cross_entropy(features, weight, None, LABELS)
        theirs = regfast.soft_cross_entropy(functional.linear(features, weight), LABELS)
    torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=0)
    assert torch.autograd.grad(ours, weight)[0].dtype == torch.float32


def test_distillation_gradient_reaches_the_teacher():
    student, teacher = logits().requires_grad_(), (logits() * 2).requires_grad_()
    ours = regfast.soft_cross_entropy(student, teacher.softmax(1))
    theirs = functional.cross_entropy(student, teacher.softmax(1))
    torch.testing.assert_close(
        torch.autograd.grad(ours, (student, teacher)), torch.autograd.grad(theirs, (student, teacher))
    )


def test_second_derivative_in_reference():
    z = logits()[:3].requires_grad_()
    with regfast.use_backend("reference"):
        assert torch.autograd.gradgradcheck(lambda x: regfast.soft_cross_entropy(x, LABELS[:3], label_smoothing=0.1), z)


Z, META = torch.zeros(8, 5), torch.zeros((), device="meta")
WRONG = [
    (TypeError, "logits must be a floating tensor, got torch.int64", lambda f: f(Z.long(), LABELS)),
    (ValueError, r"target must have shape \(8, 1\), got \(8,\)", lambda f: f(Z[..., None], LABELS)),
    (ValueError, "logits must have at least one dimension", lambda f: f(Z[0, 0], LABELS)),
    (ValueError, r"target must have shape \(\), got \(8,\)", lambda f: f(Z[0], LABELS)),
    (ValueError, "at least one class", lambda f: f(Z[:, :0], LABELS)),
    (TypeError, "target must be int64 classes.*, got torch.bool", lambda f: f(Z, LABELS.bool())),
    (TypeError, "target must be a tensor or SoftTargets, got list", lambda f: f(Z, [0] * 8)),
    (ValueError, r"target must have shape \(8,\), got \(8, 1\)", lambda f: f(Z, LABELS[:, None])),
    (ValueError, "target must have 8 rows, got 7", lambda f: f(Z, LABELS[:7])),
    (ValueError, r"probability target must have shape \(8, 5\), got \(8, 4\)", lambda f: f(Z, torch.rand(8, 4))),
    (ValueError, "target has 6 classes, logits have 5", lambda f: f(Z, smooth(LABELS, 6, 0.1))),
    (ValueError, "target must have 8 rows, got 2", lambda f: f(Z, smooth(LABELS, 5, 0.1)[:2])),
    (ValueError, "ignore_index is for index targets, got 3", lambda f: f(Z, torch.rand(8, 5), ignore_index=3)),
    (ValueError, "reduction must be 'none', 'mean' or 'sum', got 'avg'", lambda f: f(Z, LABELS, reduction="avg")),
    (ValueError, "backward must be", lambda f: f(Z, LABELS, backward="fast")),
    (ValueError, r"label_smoothing must lie in \[0, 1\], got 1.5", lambda f: f(Z, LABELS, label_smoothing=1.5)),
    (ValueError, "label_smoothing must be a number", lambda f: f(Z, LABELS, label_smoothing=torch.rand(8))),
    (ValueError, r"class_weight must have shape \(5,\), got \(4,\)", lambda f: f(Z, LABELS, class_weight=Z[0, :4])),
    (TypeError, "class_weight must be a floating tensor, got list", lambda f: f(Z, LABELS, class_weight=[1.0] * 5)),
    (ValueError, r"sample_weight must have shape \(8,\), got \(5,\)", lambda f: f(Z, LABELS, sample_weight=Z[0])),
    (ValueError, "target must be on cpu, got meta", lambda f: f(Z, LABELS.to("meta"))),
    (ValueError, "label_smoothing must be on cpu, got meta", lambda f: f(Z, LABELS, label_smoothing=META)),
    (ValueError, "lam must be on cpu, got meta", lambda f: f(Z, SoftTargets(LABELS, LABELS, META, num_classes=5))),
    (ValueError, "lam must be on cpu, got meta",
     lambda f: f(Z, SoftTargets(LABELS, LABELS, META.expand(8), num_classes=5))),
    (ValueError, "smoothing must be on cpu, got meta", lambda f: f(Z, smooth(LABELS, 5, META))),
    (ValueError, "class_weight must be on cpu, got meta", lambda f: f(Z, LABELS, class_weight=META.expand(5))),
    (ValueError, "sample_weight must be on cpu, got meta", lambda f: f(Z, LABELS, sample_weight=META.expand(8))),
    (ValueError, "class_weight requires grad", lambda f: f(Z, LABELS, class_weight=Z[0].clone().requires_grad_())),
    (TypeError, "label_smoothing must be a number, got NoneType", lambda f: f(Z, LABELS, label_smoothing=None)),
    (TypeError, "label_smoothing must be a number, got str", lambda f: f(Z, LABELS, label_smoothing="0.1")),
    (TypeError, "label_smoothing must be a number, got ndarray", lambda f: f(Z, LABELS, label_smoothing=np.zeros(9))),
    (TypeError, "ignore_index must be an integer, got 2.7", lambda f: f(Z, LABELS, ignore_index=2.7)),
    (TypeError, "ignore_index must be an integer, got NoneType", lambda f: f(Z, LABELS, ignore_index=None)),
    (ValueError, "z_loss must be at least 0 and finite, got -1.0", lambda f: f(Z, LABELS, z_loss=-1)),
    (TypeError, "z_loss must be a number, got NoneType", lambda f: f(Z, LABELS, z_loss=None)),
    (ValueError, "z_loss is a constant, which gets no gradient, but requires grad: detach it",
     lambda f: f(Z, LABELS, z_loss=torch.tensor(0.1, requires_grad=True))),
    (ValueError, r"label_smoothing must lie in \[0, 1\], got 1.5",
     lambda f: f(Z, LABELS, label_smoothing=torch.tensor(1.5))),
    (ValueError, r"got \(8,\); classes must be integers: target.long\(\)", lambda f: f(Z, LABELS.float())),
    (ValueError, r"got \(2, 4\); dimension 1 of logits is the classes: logits.movedim\(-1, 1\) if there are 5",
     lambda f: f(Z.view(2, 4, 5), LABELS.view(2, 4))),
    (IndexError, "5", lambda f: f(Z, LABELS + 1)),
]  # fmt: skip


@pytest.mark.parametrize(("error", "message", "call"), WRONG, ids=[message for _, message, _ in WRONG])
@pytest.mark.parametrize("function", [regfast.soft_cross_entropy, regfast.soft_cross_entropy_stats])
def test_wrong_arguments(error, message, call, function):
    with pytest.raises(error, match=message):
        call(function)


def test_wrong_features_and_centers():
    stats, geometry, linear = regfast.soft_cross_entropy_stats, regfast.feature_stats, regfast.linear_soft_cross_entropy
    features, centers = torch.randn(8, 3), torch.randn(5, 3)
    with pytest.raises(ValueError, match=r"features must have shape \(8, 'd'\), got \(7, 3\)"):
        stats(Z, LABELS, features[:7])
    with pytest.raises(ValueError, match=r"centers must have shape \(5, 3\), got \(4, 3\)"):
        stats(Z, LABELS, features, centers[:4])
    with pytest.raises(ValueError, match="need features"):
        stats(Z, LABELS, None, centers)
    with pytest.raises(ValueError, match="centers must have shape"):
        geometry(features, centers[:, :2], LABELS)
    learned = centers.clone().requires_grad_()
    for call in (lambda v: stats(Z, LABELS, v, learned), lambda v: geometry(v, learned, LABELS)):
        with pytest.raises(ValueError, match="centers is a constant, which gets no gradient"):
            call(features.clone().requires_grad_())
        call(features)  # nobody asks for a gradient
    stats(Z, LABELS, features.clone().requires_grad_(), learned, feature_grad=False)
    with pytest.raises(ValueError, match=r"weight must be \(K, 3\)"):
        linear(features, torch.randn(5, 4), None, LABELS)
    with pytest.raises(ValueError, match=r"weight must be \(K, 3\) torch.float32, got \(5, 3\) torch.float64"):
        linear(features, torch.randn(5, 3).double(), None, LABELS)
    with pytest.raises(ValueError, match=r"bias must be \(5,\)"):
        linear(features, torch.randn(5, 3), torch.randn(4), LABELS)


SHAPES = [(), (8,), (4, 3), (2, 3, 2)]  # of the classes


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("form", ["contiguous", "channels last", "every other"])
def test_logits_of_any_dimensions(shape, reduction, form):
    classes = (*shape[:1], 5, *shape[1:])
    z = (
        torch.randn(*classes, 2, dtype=torch.float64)[..., 0]
        if form == "every other"
        else torch.randn(classes).double()
    )
    if form == "channels last" and len(shape) > 1:
        z = z.movedim(1, -1).contiguous().movedim(-1, 1)
    z.requires_grad_()
    labels = torch.randint(5, shape)
    if shape:
        labels.view(-1)[::5] = -100
    weight, share = torch.rand(5).double(), torch.rand(shape).double()
    mixed = SoftTargets(labels.clamp(min=0), labels.clamp(min=0).flip(0) if shape else labels, 0.3, 0.2, num_classes=5)
    dense = mixed.dense(z.dtype)
    for target, same in ((labels, labels), (dense, dense), (mixed, dense)):
        options = {"label_smoothing": 0.1, "reduction": reduction}
        ours = regfast.soft_cross_entropy(z, target, class_weight=weight, **options)
        theirs = functional.cross_entropy(z, same, weight, **options)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
        incoming = torch.rand_like(theirs)
        torch.testing.assert_close(
            torch.autograd.grad(ours, z, incoming), torch.autograd.grad(theirs, z, incoming), rtol=0, atol=1e-12
        )
    rows = regfast.soft_cross_entropy(z, labels, reduction="none", z_loss=0.3)
    weighted = regfast.soft_cross_entropy(z, labels, reduction="none", z_loss=0.3, sample_weight=share)
    assert rows.shape == shape
    torch.testing.assert_close(weighted, rows * share)
    expected = functional.cross_entropy(z, labels, reduction="none") + 0.3 * z.logsumexp(min(1, len(shape))).square()
    torch.testing.assert_close(rows, torch.where(labels < 0, 0.0, expected))


@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 2)], ids=str)
def test_a_lambda_for_each_sample_or_position(shape):
    z, first, second = torch.randn(shape[0], 5, *shape[1:]).double(), *torch.randint(5, (2, *shape))
    for lam in (torch.rand(shape[:1]).double(), torch.rand(shape).double(), torch.tensor(0.3).double(), 0.3):
        target = SoftTargets(first, second, lam, 0.1, num_classes=5)
        torch.testing.assert_close(
            regfast.soft_cross_entropy(z, target),
            functional.cross_entropy(z, target.dense(z.dtype)),
            rtol=0,
            atol=1e-12,
        )


def test_statistics_of_positions():
    z, features, centers = torch.randn(2, 5, 3, 4), torch.randn(2, 6, 3, 4), torch.randn(5, 6)
    labels = torch.randint(5, (2, 3, 4))
    loss, stats = regfast.soft_cross_entropy_stats(z, labels, features, centers)
    flat = [t.movedim(1, -1).flatten(0, -2) for t in (z, features)]
    expected_loss, expected = regfast.soft_cross_entropy_stats(flat[0], labels.flatten(), flat[1], centers)
    torch.testing.assert_close(loss, expected_loss)
    for found, right in zip(stats, expected, strict=True):
        assert found.shape == (2, 3, 4)
        torch.testing.assert_close(found.flatten(), right)


def test_channels_last_logits_are_not_copied():
    z = torch.randn(2, 8, 4, 4).to(memory_format=torch.channels_last).requires_grad_()
    largest = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            if "clone" in str(function) or "copy" in str(function) or "contiguous" in str(function):
                largest.append(str(function))
            return out

    with Watch():
        loss = regfast.soft_cross_entropy(z, torch.randint(8, (2, 4, 4)))
    assert largest == []
    (gradient,) = torch.autograd.grad(loss, z)
    assert gradient.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_labels_of_small_integers(dtype):
    z = logits()
    assert torch.equal(regfast.soft_cross_entropy(z, LABELS.to(dtype)), regfast.soft_cross_entropy(z, LABELS))
    background = torch.where(LABELS == 2, 100, LABELS)
    ours = regfast.soft_cross_entropy(z, background.to(dtype), ignore_index=100)
    torch.testing.assert_close(ours, functional.cross_entropy(z, background, ignore_index=100))


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_weights_of_classes_and_samples_learn(reduction):
    z, q = logits().requires_grad_(), logits().softmax(1).requires_grad_()
    weight = torch.rand(5, dtype=torch.float64, requires_grad=True)
    ours = regfast.soft_cross_entropy(z, q, class_weight=weight, reduction=reduction)
    theirs = functional.cross_entropy(z, q, weight, reduction=reduction)
    incoming = torch.rand_like(theirs)
    torch.testing.assert_close(
        torch.autograd.grad(ours, (z, q, weight), incoming), torch.autograd.grad(theirs, (z, q, weight), incoming)
    )
    share = torch.rand(8, dtype=torch.float64, requires_grad=True)
    mixed = SoftTargets(LABELS, LABELS.roll(1), 0.3, 0.2, num_classes=5)
    assert torch.autograd.gradcheck(
        lambda w, s: regfast.soft_cross_entropy(
            z.detach(), mixed, class_weight=w, sample_weight=s, reduction=reduction, z_loss=0.1
        ),
        (weight, share),
    )


@pytest.mark.parametrize("value", [np.float32(0.1), np.float64(0.1), np.array(0.1), torch.tensor(0.1), 0.1], ids=repr)
def test_numbers_of_any_kind(value):
    z = logits()
    expected = regfast.soft_cross_entropy(z, LABELS, label_smoothing=0.1, z_loss=0.1)
    for call in (regfast.soft_cross_entropy, lambda *a, **k: regfast.soft_cross_entropy_stats(*a, **k)[0]):
        found = call(z, LABELS, label_smoothing=value, z_loss=value, ignore_index=np.int32(-100))
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    whole = regfast.soft_cross_entropy(z, LABELS, label_smoothing=torch.tensor(1))
    torch.testing.assert_close(whole, regfast.soft_cross_entropy(z, LABELS, label_smoothing=1))
    found = regfast.soft_cross_entropy(z, LABELS, ignore_index=torch.tensor(0))
    torch.testing.assert_close(found, functional.cross_entropy(z, LABELS, ignore_index=0))


def test_messages_stay_short():
    many = torch.full((100_000,), 7)
    z = torch.zeros(100_000, 2)
    for call in (
        lambda: regfast.soft_cross_entropy(z, many),
        lambda: regfast.soft_cross_entropy(z, SoftTargets(many, num_classes=2)),
        lambda: regfast.soft_cross_entropy(z, many, label_smoothing=many),
        lambda: regfast.soft_cross_entropy(z, many, ignore_index=many),
        lambda: regfast.soft_cross_entropy(z, many.tolist()),
        lambda: regfast.soft_cross_entropy(z, many, reduction=many),
        lambda: regfast.soft_cross_entropy(z, many, backward=many),
    ):
        with pytest.raises((IndexError, ValueError, TypeError, RuntimeError)) as caught:
            call()
        assert len(str(caught.value)) < 300


def test_linear_weights_on_another_device_are_refused():
    features, weight = torch.randn(8, 3), torch.randn(5, 3)
    with pytest.raises(ValueError, match="weight must be on cpu, got meta"):
        regfast.linear_soft_cross_entropy(features, weight.to("meta"), None, LABELS)
    with pytest.raises(ValueError, match="bias must be on cpu, got meta"):
        regfast.linear_soft_cross_entropy(features, weight, torch.zeros(5, device="meta"), LABELS)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_linear_z_loss(dtype):
    features, weight, bias = (torch.randn(shape, dtype=dtype, requires_grad=True) for shape in ((8, 3), (5, 3), (5,)))
    for reduction in ("none", "mean", "sum"):
        ours = regfast.linear_soft_cross_entropy(features, weight, bias, LABELS, z_loss=0.2, reduction=reduction)
        z = functional.linear(features, weight, bias)
        theirs = functional.cross_entropy(z, LABELS, reduction="none") + 0.2 * z.logsumexp(1).square()
        theirs = theirs if reduction == "none" else theirs.mean() if reduction == "mean" else theirs.sum()
        torch.testing.assert_close(ours, theirs)
        leaves, incoming = (features, weight, bias), torch.rand_like(theirs)
        torch.testing.assert_close(
            torch.autograd.grad(ours, leaves, incoming), torch.autograd.grad(theirs, leaves, incoming)
        )


class Step(torch.nn.Module):
    def forward(self, z, target):
        return regfast.soft_cross_entropy(z, target, label_smoothing=0.1, z_loss=0.01)


def test_export_of_a_module_that_takes_soft_targets():
    mixed = SoftTargets(LABELS, LABELS.roll(1), torch.tensor(0.3), 0.2, num_classes=5)
    z = logits().float()
    program = torch.export.export(Step(), (z, mixed), strict=False)
    torch.testing.assert_close(program.module()(z, mixed), Step()(z, mixed))


@pytest.mark.parametrize("kind", ["index", "mixed", "spatial"])
def test_new_numbers_compile_nothing_anew(kind):
    counter = torch._dynamo.testing.CompileCounter()
    step = torch.compile(regfast.soft_cross_entropy, backend=counter, fullgraph=True)
    for number in (0.05, 0.15, 0.25, 0.35, 0.45, 0.55):
        if kind == "index":
            found = step(Z, LABELS, label_smoothing=number)
        elif kind == "mixed":
            found = step(Z, SoftTargets(LABELS, LABELS.roll(1), number, number / 2, num_classes=5))
        else:
            found = step(Z.view(2, 5, 4), SoftTargets(LABELS.view(2, 4), None, number, number / 2, num_classes=5))
        torch.testing.assert_close(found, torch.tensor(5.0).log())
    assert counter.frame_count <= 2


@pytest.mark.parametrize("numbers", [(0.1, 0.2, 0.3), (0.1, 0, 0.3), (0, 1), (1, 0, 0.5)], ids=str)
@pytest.mark.parametrize("name", ["label_smoothing", "z_loss"])
def test_other_numbers_go_through_a_compiled_loss(name, numbers):
    torch._dynamo.reset()
    step = torch.compile(
        lambda z, x: regfast.soft_cross_entropy(z, LABELS, **{name: x}), backend="eager", fullgraph=True
    )
    for number in numbers:
        z = logits()
        smoothing, c = (number, 0) if name == "label_smoothing" else (0, number)
        expected = functional.cross_entropy(z, LABELS, label_smoothing=smoothing) + c * z.logsumexp(1).square().mean()
        torch.testing.assert_close(step(z, number), expected)
