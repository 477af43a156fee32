"""torch.func's transforms and forward-mode derivatives of the public losses: what PyTorch's own loss gives."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import forward_ad
from torch.nn import functional

from regfast.functional import soft_cross_entropy


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
