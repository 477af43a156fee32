import math

import pytest
import torch

from regfast.representation import free_minimizer, row_space, smoothed_targets, soft_minimizer
from tests.representation.closed_forms import random_head, simplex


def slope(weight, bias, target, v, ridge):
    v = v.clone().requires_grad_()
    logits = v @ weight.T + bias
    loss = torch.logsumexp(logits, 1) - (target * logits).sum(1) + ridge / 2 * (v * v).sum(1)
    return torch.autograd.grad(loss.sum(), v)[0]


def test_smoothed_targets():
    torch.testing.assert_close(
        smoothed_targets(4, 0.2, torch.tensor([2])), torch.tensor([[0.05, 0.05, 0.85, 0.05]]).double()
    )
    assert torch.equal(smoothed_targets(3, 0.0), torch.eye(3).double())
    with pytest.raises(ValueError, match="smoothing"):
        smoothed_targets(3, 1.5)


@pytest.mark.parametrize("num_classes", [2, 5, 10])
def test_at_the_free_minimizer_the_softmax_is_the_target(num_classes):
    weight, bias = random_head(num_classes, num_classes + 7, seed=num_classes)
    target = smoothed_targets(num_classes, 0.1)
    points = free_minimizer(weight, bias, target)
    torch.testing.assert_close(torch.softmax(points @ weight.T + bias, 1), target, atol=1e-10, rtol=0)
    # The shortest of them: nothing outside the row space.
    basis = row_space(weight)
    torch.testing.assert_close(points @ basis.T @ basis, points)
    torch.testing.assert_close(soft_minimizer(weight, bias, target), points, atol=1e-7, rtol=1e-7)


@pytest.mark.parametrize(("num_classes", "gap"), [(10, 4.511), (100, 6.803), (1000, 9.105)])
def test_logit_gap_under_smoothing(num_classes, gap):
    weight, bias = random_head(num_classes, num_classes, seed=1)
    point = free_minimizer(weight, bias, smoothed_targets(num_classes, 0.1, torch.tensor([0])))
    logits = (point @ weight.T + bias)[0]
    assert math.log(1 + num_classes * 0.9 / 0.1) == pytest.approx(gap, abs=1e-3)
    torch.testing.assert_close(logits[0] - logits[1:], torch.full_like(logits[1:], math.log(1 + num_classes * 9)))


@pytest.mark.parametrize("ridge", [1.0, 1e-3, 1e-6])
@pytest.mark.parametrize(("num_classes", "dim"), [(2, 1), (10, 2), (10, 30)])
def test_the_gradient_vanishes_at_the_ridge_minimizer(num_classes, dim, ridge):
    weight, bias = random_head(num_classes, dim, seed=dim)
    generator = torch.Generator().manual_seed(0)
    dense = torch.softmax(torch.randn(4, num_classes, generator=generator).double(), 1)
    target = torch.cat([smoothed_targets(num_classes, 0.0), smoothed_targets(num_classes, 0.3), dense])
    points = soft_minimizer(weight, bias, target, ridge=ridge)
    assert float(slope(weight, bias, target, points, ridge).norm(dim=1).max()) < 1e-10


def test_low_rank_has_a_minimizer_that_is_not_the_target():
    weight, bias = random_head(10, 2, seed=4)
    target = smoothed_targets(10, 0.1)
    points = soft_minimizer(weight, bias, target)
    assert float(slope(weight, bias, target, points, 0).norm(dim=1).max()) < 1e-9
    assert float((torch.softmax(points @ weight.T + bias, 1) - target).abs().max()) > 0.05
    with pytest.raises(ValueError, match="rank 2"):
        free_minimizer(weight, bias, target)


def test_two_classes_in_closed_form():
    weight, bias = torch.tensor([[3.0], [1.0]]).double(), torch.tensor([0.5, 0.0]).double()
    # p = sigmoid(2v + 0.5) = 0.95
    point = soft_minimizer(weight, bias, smoothed_targets(2, 0.1, torch.tensor([0])))
    assert float(point) == pytest.approx((math.log(19) - 0.5) / 2)


def test_bad_input_is_named():
    weight = simplex(4)
    hard = smoothed_targets(4, 0.0)
    with pytest.raises(ValueError, match="positive everywhere"):
        soft_minimizer(weight, None, hard)
    with pytest.raises(ValueError, match="positive everywhere"):
        free_minimizer(weight, None, hard)
    with pytest.raises(ValueError, match="ridge"):
        soft_minimizer(weight, None, hard, ridge=-1)
    with pytest.raises(ValueError, match="rows that sum to 1"):
        soft_minimizer(weight, None, 2 * hard, ridge=1)
    with pytest.raises(ValueError, match="target must have shape"):
        soft_minimizer(weight, None, hard[:, :3], ridge=1)
    with pytest.warns(RuntimeWarning, match="gradient"):
        soft_minimizer(weight, None, hard, ridge=1e-6, max_iterations=2)
