import math

import pytest
import torch

from regfast.representation import class_means, neural_collapse, row_space
from tests.representation.closed_forms import random_head, simplex


def test_full_collapse_is_all_zeros():
    weight = simplex(5, 8)
    labels = torch.arange(50) % 5
    # Moved by a constant, which the bias takes back.
    result = neural_collapse(3 * weight[labels] + 4.0, weight + 1.0, -4.0 * weight.sum(dim=1), labels)
    for name in ("nc1", "nc2_norm", "nc2_angle", "nc3", "nc4"):
        assert getattr(result, name) == pytest.approx(0, abs=1e-12), name


def test_nc1_is_the_trace_with_the_pseudoinverse():
    weight, bias = random_head(4, 6, seed=1)
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(90) % 4
    features = torch.randn(90, 6, generator=generator).double() + 2 * weight[labels]
    means = torch.stack([features[labels == c].mean(0) for c in range(4)])
    torch.testing.assert_close(class_means(features, labels, 4), means)
    residual, spokes = features - means[labels], means - means.mean(0)
    within, between = residual.T @ residual / 90, spokes.T @ spokes / 4
    result = neural_collapse(features, weight, bias, labels)
    assert result.nc1 == pytest.approx(float(torch.trace(within @ torch.linalg.pinv(between, rtol=1e-10)) / 4))
    projector = row_space(weight).T @ row_space(weight)
    assert result.within_in_span == pytest.approx(float(torch.trace(projector @ within) / torch.trace(within)))
    nearest = torch.cdist(features, means).argmin(1)
    disagree = ((features @ weight.T + bias).argmax(1) != nearest).double().mean()
    assert result.nc4 == pytest.approx(float(disagree))


def test_two_classes_in_closed_form():
    # Means at ±1, spread ±0.5 within: Σ_W = 1/4, Σ_B = 1, so NC1 = 1/8; two points always are a simplex.
    features = torch.tensor([[0.5], [1.5], [-0.5], [-1.5]])
    result = neural_collapse(features, torch.tensor([[-3.0], [3.0]]), None, torch.tensor([0, 0, 1, 1]))
    assert result.nc1 == pytest.approx(1 / 8)
    assert result.nc2_norm == pytest.approx(0, abs=1e-12)
    assert result.nc2_angle == pytest.approx(0, abs=1e-12)
    # The head points the wrong way: opposite unit matrices are 2 apart, and it disagrees everywhere.
    assert result.nc3 == pytest.approx(2)
    assert result.nc4 == 1
    assert result.within_in_span == pytest.approx(1)


def test_unequal_lengths_and_angles_show():
    means = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 2.0], [0.0, -2.0]])
    result = neural_collapse(means, means, None, torch.arange(4))
    assert result.nc2_norm == pytest.approx(1 / 3)
    assert result.nc2_angle == pytest.approx((2 * (1 - 1 / 3) + 4 / 3) / 6)
    assert math.isnan(result.within_in_span)


def test_bad_input_is_named():
    weight, bias = random_head(3, 2)
    with pytest.raises(ValueError, match=r"none of \[2\]"):
        neural_collapse(torch.randn(4, 2), weight, bias, torch.tensor([0, 1, 0, 1]))
    with pytest.raises(ValueError, match="class means are equal"):
        neural_collapse(torch.ones(3, 2), weight, bias, torch.arange(3))
    with pytest.raises(IndexError, match="labels"):
        class_means(torch.ones(1, 2), torch.tensor([3]), 3)
    with pytest.raises(ValueError, match="K ≥ 2"):
        neural_collapse(torch.ones(1, 2), weight[:1], None, torch.tensor([0]))
    assert bool(class_means(torch.ones(1, 2), torch.tensor([0]), 2)[1].isnan().all())
    for bad in (math.nan, math.inf):
        features = torch.randn(6, 2)
        features[4, 1] = bad
        with pytest.raises(ValueError, match="features must be finite, got 1 NaN or infinite entries"):
            neural_collapse(features, weight, bias, torch.arange(6) % 3)
