"""torch.func's transforms and forward-mode derivatives of the public losses: what PyTorch's own loss gives."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import forward_ad
from torch.nn import functional
from torch.utils import _pytree as pytree

from regfast import SoftTargets, smooth
from regfast.functional import linear_soft_cross_entropy, soft_cross_entropy, soft_cross_entropy_stats
from tests.ops.backends import on_cpu


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(3)
    logits, tangent = torch.randn(2, 6, 5, generator=generator, dtype=torch.float64)
    return logits, torch.randint(5, (6,), generator=generator), tangent


def ours(labels):
    return lambda z: soft_cross_entropy(z, labels, label_smoothing=0.1)


def theirs(labels):
    return lambda z: functional.cross_entropy(z, labels, label_smoothing=0.1)


@pytest.mark.parametrize("transform", [torch.func.grad, torch.func.hessian, torch.func.jacrev, torch.func.jacfwd])
def test_derivatives(inputs, transform):
    logits, labels, _ = inputs
    torch.testing.assert_close(transform(ours(labels))(logits), transform(theirs(labels))(logits))


def test_jvp_is_not_silently_zero(inputs):
    logits, labels, tangent = inputs
    expected = torch.func.jvp(theirs(labels), (logits,), (tangent,))
    torch.testing.assert_close(torch.func.jvp(ours(labels), (logits,), (tangent,)), expected)
    with forward_ad.dual_level():
        dual = forward_ad.unpack_dual(ours(labels)(forward_ad.make_dual(logits, tangent)))
        torch.testing.assert_close(dual.tangent, expected[1])


def test_vmap_over_models(inputs):
    logits, labels, tangent = inputs
    both = torch.stack([logits, tangent])
    expected = torch.stack([theirs(labels)(z) for z in both])
    torch.testing.assert_close(torch.func.vmap(ours(labels))(both), expected)


@pytest.mark.parametrize("kind", ["index", "dense", "mixed", "smooth"])
@pytest.mark.parametrize("weighted", [False, True])
def test_vmap_over_samples(inputs, kind, weighted):
    logits, labels, tangent = inputs
    lam = torch.linspace(0, 1, 6, dtype=torch.float64)
    target, axes = {
        "index": (labels, 0),
        "dense": (tangent.softmax(1), 0),
        "mixed": (SoftTargets(labels, labels.flip(0), lam, 0.1, num_classes=5), SoftTargets),
        "smooth": (smooth(labels, 5, 0.2), SoftTargets),
    }[kind]
    dense = target.dense(logits.dtype) if axes is SoftTargets else target
    if axes is SoftTargets:
        axes = pytree.tree_map(lambda part: 0 if isinstance(part, torch.Tensor) else None, target)
    weight = torch.rand(5, dtype=torch.float64) if weighted else None

    def mine(z, t):
        return soft_cross_entropy(z, t, label_smoothing=0.1, class_weight=weight)

    def torchs(z, t):
        return functional.cross_entropy(z, t, weight, label_smoothing=0.1)

    found = torch.func.vmap(torch.func.grad_and_value(mine), in_dims=(0, axes))(logits, target)
    torch.testing.assert_close(found, torch.func.vmap(torch.func.grad_and_value(torchs))(logits, dense))


def test_vmap_makes_targets_inside(inputs):
    logits, labels, _ = inputs
    lam = torch.linspace(0, 1, 6, dtype=torch.float64)

    def dense(first, second, share):
        return SoftTargets(first[None], second[None], share[None], 0.1, num_classes=5).dense(torch.float64)

    def loss(z, first, second, share):
        return soft_cross_entropy(z[None], SoftTargets(first[None], second[None], share[None], 0.1, num_classes=5))

    parts = labels, labels.flip(0), lam
    whole = SoftTargets(*parts, 0.1, num_classes=5)
    torch.testing.assert_close(torch.func.vmap(dense)(*parts).squeeze(1), whole.dense(torch.float64))
    expected = soft_cross_entropy(logits, whole, reduction="none")
    torch.testing.assert_close(torch.func.vmap(loss)(logits, *parts), expected)


def test_vmap_over_statistics(inputs):
    logits, labels, _ = inputs
    features, centers = torch.randn(6, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)

    def one(z, t, v):
        loss, stats = soft_cross_entropy_stats(z[None], t[None], v[None], centers, z_loss=0.1)
        return loss + stats.entropy.sum() + stats.margin.sum() + stats.cosine.sum(), stats

    grads = torch.func.vmap(torch.func.grad(lambda *a: one(*a)[0], argnums=(0, 2)))(logits, labels, features)
    rows = [
        torch.func.grad(lambda *a: one(*a)[0], argnums=(0, 2))(*row)
        for row in zip(logits, labels, features, strict=True)
    ]
    torch.testing.assert_close(grads, tuple(torch.stack(part) for part in zip(*rows, strict=True)))
    _, stats = torch.func.vmap(one)(logits, labels, features)
    _, expected = soft_cross_entropy_stats(logits, labels, features, centers)
    for name in ("log_partition", "prediction", "entropy", "margin", "rms", "cosine"):
        torch.testing.assert_close(getattr(stats, name).squeeze(1), getattr(expected, name))


def test_transforms_of_the_linear_loss(inputs):
    _, labels, _ = inputs
    features, weight = torch.randn(6, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)

    def mine(v, t):
        return linear_soft_cross_entropy(v[None], weight, None, t[None], z_loss=0.1)

    def plain(v, t):
        return soft_cross_entropy(functional.linear(v[None], weight), t[None], z_loss=0.1)

    found, expected = (torch.func.vmap(torch.func.grad(f))(features, labels) for f in (mine, plain))
    torch.testing.assert_close(found, expected)


def test_vmap_over_bad_labels_is_nan_and_grad_still_names_them(inputs):
    logits, labels, _ = inputs
    labels = labels.clone()
    labels[2] = 9
    assert torch.func.vmap(soft_cross_entropy)(logits, labels).isnan().tolist() == [row == 2 for row in range(6)]
    with pytest.raises(IndexError, match="9"):
        torch.func.grad(ours(labels))(logits)


@on_cpu("soft_cross_entropy")
@pytest.mark.parametrize("reduction", ["none", "mean"])
@pytest.mark.parametrize("mode", ["auto", "store", "recompute"])
def test_batched_gradients(inputs, backend, reduction, mode):
    logits, labels, _ = inputs
    logits.requires_grad_()
    incoming = torch.rand(3, 6, dtype=torch.float64) if reduction == "none" else torch.rand(3, dtype=torch.float64)
    loss = soft_cross_entropy(logits, labels, label_smoothing=0.1, reduction=reduction, backward=mode)
    expected = [torch.autograd.grad(loss, logits, g, retain_graph=True)[0] for g in incoming]
    (found,) = torch.autograd.grad(loss, logits, incoming, is_grads_batched=True, retain_graph=True)
    torch.testing.assert_close(found, torch.stack(expected))
    features, weight = torch.randn(6, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    leaves = features.requires_grad_(), weight.requires_grad_()
    loss = linear_soft_cross_entropy(*leaves, None, labels, reduction=reduction)
    expected = [torch.autograd.grad(loss, leaves, g, retain_graph=True) for g in incoming]
    found = torch.autograd.grad(loss, leaves, incoming, is_grads_batched=True)
    torch.testing.assert_close(found, tuple(torch.stack(part) for part in zip(*expected, strict=True)))
