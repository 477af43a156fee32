from __future__ import annotations

import pytest
import torch

from regfast.ops.feature_stats import feature_stats
from tests.ops import oracle
from tests.ops.backends import on_cpu

pytestmark = on_cpu("feature_stats")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [1, 3, 64, 513])
def test_values(backend, dtype, width):
    features, centers = torch.randn(19, width).to(dtype), torch.randn(6, width).to(dtype)
    labels, predictions = torch.randint(6, (2, 19))
    stats = feature_stats(features, centers, labels, predictions)
    rms, cosine = oracle.geometry(features, centers, labels)
    close = {"rtol": 1e-12, "atol": 1e-12} if dtype == torch.float64 else {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close(stats.rms.double(), rms, **close)
    torch.testing.assert_close(stats.cosine.double(), cosine, **close)
    torch.testing.assert_close(
        stats.cosine_predicted.double(), oracle.geometry(features, centers, predictions)[1], **close
    )
    assert stats.rms.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_strides(backend):
    features, centers = torch.randn(8, 9).t(), torch.randn(5, 16)[:, ::2]
    labels = torch.arange(18)[::2] % 5
    torch.testing.assert_close(
        feature_stats(features, centers, labels),
        feature_stats(features.contiguous(), centers.contiguous(), labels.contiguous()),
        equal_nan=True,
    )


def test_gradient(backend):
    features = torch.randn(7, 4, dtype=torch.float64, requires_grad=True)
    centers, labels = torch.randn(5, 4, dtype=torch.float64, requires_grad=True), torch.arange(7) % 5
    assert torch.autograd.gradcheck(lambda v: tuple(feature_stats(v, centers, labels, labels.flip(0))), features)
    stats = feature_stats(features, centers, labels)
    assert torch.autograd.grad(stats.cosine.sum(), centers, allow_unused=True)[0] is None  # centers are constants


def test_gradient_at_zero_and_ignored_is_zero(backend):
    features = torch.randn(3, 4)
    features[0] = 0
    features.requires_grad_()
    stats = feature_stats(features, torch.randn(5, 4), torch.tensor([1, -100, 2]))
    assert stats.cosine.isnan().tolist() == [False, True, False]
    gradient = torch.autograd.grad(
        stats.cosine[[0, 2]].sum() + stats.rms[0] + 0 * stats.cosine[1].nan_to_num(), features
    )[0]
    assert gradient[:2].eq(0).all() and gradient[2].ne(0).any()


def test_labels_out_of_range(backend):
    features, centers = torch.randn(3, 4), torch.randn(5, 4)
    good, bad = torch.tensor([0, 1, 2]), torch.tensor([0, 5, 2])
    with pytest.raises(IndexError, match="5"):
        feature_stats(features, centers, bad)
    with pytest.raises(IndexError, match="5"):
        feature_stats(features, centers, good, bad)


def test_without_predictions_and_empty(backend):
    stats = feature_stats(torch.randn(3, 4), torch.randn(5, 4), torch.tensor([0, 1, 2]))
    assert stats.cosine_predicted.isnan().all()
    stats = feature_stats(torch.empty(0, 4), torch.randn(5, 4), torch.empty(0, dtype=torch.int64))
    assert stats.rms.shape == stats.cosine.shape == (0,)
