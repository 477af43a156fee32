import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from regfast.representation import class_centers
from tests.representation.closed_forms import random_head, simplex, unit


def objective(weight, bias, label, v):
    z = weight @ v + bias
    others = torch.cat([z[:label], z[label + 1 :]])
    return torch.logsumexp(others, 0) - z[label]


@pytest.mark.parametrize(("num_classes", "dim"), [(3, 2), (10, 3), (6, 40)])
@pytest.mark.parametrize("radius", [0.05, 1.0, 20.0])
def test_no_better_point_is_found_by_a_general_solver(num_classes, dim, radius):
    weight, bias = random_head(num_classes, dim, seed=num_classes)
    centers = class_centers(weight, bias, radius=radius)
    assert centers.points.shape == weight.shape
    assert centers.points.dtype == torch.float64
    assert bool((centers.points.norm(dim=1) <= radius * (1 + 1e-12)).all())
    assert bool((centers.gap >= 0).all() and (centers.gap <= 1e-7 * max(1, radius * 10)).all())
    for label in range(num_classes):
        value = float(objective(weight, bias, label, centers.points[label]))
        assert float(centers.objective[label]) == pytest.approx(value, abs=1e-10)

        def function(x, label=label):
            v = torch.tensor(x, requires_grad=True)
            loss = objective(weight, bias, label, v)
            return loss.item(), torch.autograd.grad(loss, v)[0].numpy()

        ball = {"type": "ineq", "fun": lambda x: radius**2 - x @ x, "jac": lambda x: -2 * x}
        start = centers.points[label].numpy() * 0.9
        best = minimize(function, start, jac=True, constraints=[ball], method="SLSQP", options={"ftol": 1e-13})
        inside = best.x * min(1, radius / np.linalg.norm(best.x))
        # What the certificate promises, against a solver that knows nothing of ours.
        assert value - function(inside)[0] <= float(centers.gap[label]) + 1e-10


def test_simplex_etf_gives_the_weight_at_every_radius():
    weight = simplex(7, 12, scale=1.7)
    for radius in (1e-3, 1.0, 60.0, 500.0):
        centers = class_centers(weight, torch.zeros(7, dtype=torch.float64), radius=radius)
        # F falls by radius·K/(K-1)·omega at most: at 500 its tail below the tolerance leaves the angle free by 1e-5.
        torch.testing.assert_close(unit(centers.points), unit(weight), atol=1e-5, rtol=0)
        expected = math.log(6) - radius * 1.7 * 7 / 6
        torch.testing.assert_close(centers.objective, torch.full((7,), expected).double(), atol=1e-6, rtol=1e-6)


def test_small_radius_gives_the_gradient_direction():
    weight, bias = random_head(8, 20, seed=3)
    share = torch.softmax(bias, 0)
    expected = unit(weight - share @ weight)  # w_c - Σ softmax(b)_k w_k
    points = class_centers(weight, bias, radius=1e-4).points
    angle = torch.acos((unit(points) * expected).sum(dim=1).clamp(max=1))
    assert float(angle.max()) < 2e-3


def test_large_radius_gives_the_max_margin_direction():
    weight, _ = random_head(4, 6, seed=5)
    angles = []
    for radius in (100.0, 1000.0):
        points = class_centers(weight, radius=radius).points
        angle = 0.0
        for label in range(4):
            # Min-norm point of the hull of w_c - w_j, by brute force over the weights on its three vertices.
            rest = [j for j in range(4) if j != label]
            edges = (weight[label] - weight[rest]).numpy()
            gram = edges @ edges.T
            simplex_only = {"type": "eq", "fun": lambda x: x.sum() - 1}
            bounds, start = [(0, 1)] * 3, np.full(3, 1 / 3)
            share = minimize(
                lambda x, gram=gram: x @ gram @ x,
                start,
                bounds=bounds,
                constraints=simplex_only,
                options={"ftol": 1e-15},
            ).x
            direction = unit(torch.tensor(share @ edges))
            angle = max(angle, float(torch.acos((unit(points[label]) * direction).sum().clamp(max=1))))
        angles.append(angle)
    # Approached as 1/r.
    assert angles[1] < 0.01
    assert 5 < angles[0] / angles[1] < 20


def test_two_classes_are_linear():
    weight, bias = random_head(2, 9, seed=1)
    centers = class_centers(weight, bias, radius=3.0)
    torch.testing.assert_close(centers.points[0], 3 * unit(weight[0] - weight[1]))
    torch.testing.assert_close(centers.points[1], 3 * unit(weight[1] - weight[0]))
    assert float(centers.gap.max()) < 1e-9


def test_middle_class_on_a_line_has_log_three():
    centers = class_centers(torch.tensor([[-1.0], [0.0], [1.0]]), radius=5.0)
    assert float(torch.nn.functional.softplus(centers.objective[1])) == pytest.approx(math.log(3), abs=1e-7)
    torch.testing.assert_close(centers.points, torch.tensor([[-5.0], [0.0], [5.0]]).double(), atol=1e-3, rtol=0)


@pytest.mark.parametrize("n", [5, 9])
def test_central_class_of_a_ring_sits_at_the_origin(n):
    angle = torch.arange(n) * (2 * math.pi / n)
    weight = torch.cat([torch.zeros(1, 2), torch.stack([angle.cos(), angle.sin()], 1)])
    bias = torch.zeros(n + 1)
    bias[0] = 1.5
    centers = class_centers(weight, bias, radius=4.0)
    assert float(torch.nn.functional.softplus(centers.objective[0])) == pytest.approx(
        math.log1p(n * math.exp(-1.5)), abs=1e-6
    )
    assert float(centers.points[0].norm()) < 1e-3


def test_points_do_not_change_with_what_the_softmax_cannot_see():
    weight, bias = random_head(5, 30, seed=2)
    base = class_centers(weight, bias, radius=2.0)
    moved = class_centers(weight + torch.randn(30, generator=torch.Generator().manual_seed(0)), bias + 3, radius=2.0)
    torch.testing.assert_close(moved.points, base.points, atol=1e-4, rtol=0)
    # More dimensions than classes: solved in the row space, and the points stay there.
    centered = weight - weight.mean(0)
    outside = base.points - base.points @ torch.linalg.pinv(centered) @ centered
    assert float(outside.abs().max()) < 1e-12


def test_rotations_turn_the_points_and_scales_scale_the_radius():
    weight, bias = random_head(6, 4, seed=8)
    points = class_centers(weight, bias, radius=3.0, tolerance=1e-10).points
    turn = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0]
    turned = class_centers(weight @ turn, bias, radius=3.0, tolerance=1e-10).points
    torch.testing.assert_close(turned, points @ turn, atol=1e-4, rtol=0)
    # z = (s w)·(v/s): the same logits, so the same centers in other units.
    scaled = class_centers(20 * weight, bias, radius=3.0 / 20, tolerance=1e-10).points
    torch.testing.assert_close(20 * scaled, points, atol=1e-4, rtol=0)


def test_where_cross_entropy_underflows_the_objective_does_not():
    weight = simplex(10, 10, scale=1.7).float()
    centers = class_centers(weight, radius=400.0)
    assert float(torch.nn.functional.softplus(centers.objective.float()).max()) == 0
    assert float(centers.objective.max()) < -700
    assert float(centers.gap.max()) < 1e-6


def test_twice_is_the_same_and_chunks_agree(monkeypatch):
    weight, bias = random_head(9, 4, seed=4)
    first, second = (class_centers(weight, bias, radius=2.0) for _ in range(2))
    assert torch.equal(first.points, second.points)
    monkeypatch.setattr("regfast.representation.centers._CHUNK", 20)
    torch.testing.assert_close(class_centers(weight, bias, radius=2.0).points, first.points, atol=1e-3, rtol=0)


def test_equal_weights_have_their_center_at_the_origin():
    centers = class_centers(torch.full((4, 5), 0.1), radius=3.0)
    assert torch.equal(centers.points, torch.zeros(4, 5, dtype=torch.float64))
    torch.testing.assert_close(centers.objective, torch.full((4,), math.log(3)).double())


def test_an_unreached_certificate_warns_and_is_honest():
    weight, bias = random_head(10, 4, seed=6)
    best = class_centers(weight, bias, radius=50.0, tolerance=1e-10)
    with pytest.warns(RuntimeWarning, match="certificate"):
        early = class_centers(weight, bias, radius=50.0, max_iterations=3)
    assert bool((early.objective - best.objective <= early.gap).all())
    assert float(early.gap.max()) > 1e-3


def test_bad_input_is_named():
    weight = torch.randn(3, 2)
    with pytest.raises(ValueError, match="K ≥ 2"):
        class_centers(weight[:1], radius=1.0)
    with pytest.raises(ValueError, match="weight must be finite, got 1"):
        class_centers(torch.tensor([[math.nan, 0.0], [1.0, 1.0]]), radius=1.0)
    with pytest.raises(ValueError, match="bias"):
        class_centers(weight, torch.zeros(2), radius=1.0)
    with pytest.raises(TypeError, match="floating"):
        class_centers(torch.ones(3, 2, dtype=torch.int64), radius=1.0)
    for radius in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="radius"):
            class_centers(weight, radius=radius)
    for limit in (0, -1, 2.5, None):
        with pytest.raises((ValueError, TypeError), match=r"max_iterations must be an integer( ≥ 1)?, got"):
            class_centers(weight, radius=1.0, max_iterations=limit)
    with pytest.raises(ValueError, match=r"\(K, d\)"):
        class_centers(weight[0], radius=1.0)
