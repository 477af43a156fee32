from __future__ import annotations

import pytest
import torch
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


Z = torch.zeros(8, 5)
WRONG = [
    (TypeError, "logits must be a floating tensor, got torch.int64", lambda f: f(Z.long(), LABELS)),
    (ValueError, r"logits must have two dimensions.* got shape \(8, 5, 1\)", lambda f: f(Z[..., None], LABELS)),
    (ValueError, "at least one class", lambda f: f(Z[:, :0], LABELS)),
    (TypeError, "target must be int64 classes, got torch.int32", lambda f: f(Z, LABELS.int())),
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
    with pytest.raises(ValueError, match="features must have 8 rows, got 7"):
        stats(Z, LABELS, features[:7])
    with pytest.raises(ValueError, match=r"centers must have shape \(5, 3\), got \(4, 3\)"):
        stats(Z, LABELS, features, centers[:4])
    with pytest.raises(ValueError, match="need features"):
        stats(Z, LABELS, None, centers)
    with pytest.raises(ValueError, match="centers must have shape"):
        geometry(features, centers[:, :2], LABELS)
    with pytest.raises(ValueError, match=r"weight must be \(K, 3\)"):
        linear(features, torch.randn(5, 4), None, LABELS)
    with pytest.raises(ValueError, match=r"weight must be \(K, 3\) torch.float32, got \(5, 3\) torch.float64"):
        linear(features, torch.randn(5, 3).double(), None, LABELS)
    with pytest.raises(ValueError, match=r"bias must be \(5,\)"):
        linear(features, torch.randn(5, 3), torch.randn(4), LABELS)
