import math

import pytest
import torch

from regfast.representation import max_margin_direction, radius_sensitivity, small_radius_direction
from regfast.representation.sensitivity import angle
from tests.representation.closed_forms import random_head, simplex, unit


def test_simplex_etf_has_one_direction_at_every_radius():
    weight = simplex(6, 9, 2.0)
    result = radius_sensitivity(weight, None, [0.1, 1.0, 10.0])
    assert result.points.shape == (3, 6, 9)
    assert float(result.angle.max()) < 1e-4
    assert float(result.angle_limit.max()) < 1e-12
    torch.testing.assert_close(max_margin_direction(weight), unit(weight))
    torch.testing.assert_close(small_radius_direction(weight), unit(weight))


def test_the_angle_goes_from_zero_to_its_limit_as_one_over_r():
    weight, bias = random_head(5, 12, seed=2)
    result = radius_sensitivity(weight, bias, [1e-4, 1.0, 300.0, 3000.0])
    assert float(result.angle[0].max()) < 2e-3
    left = (result.angle - result.angle_limit).abs().amax(1)
    assert float(left[3]) < 0.005 < float(left[1])
    assert 5 < float(left[2] / left[3]) < 20


def test_max_margin_is_what_a_support_vector_machine_finds():
    svm = pytest.importorskip("sklearn.svm")
    weight, _ = random_head(6, 10, seed=3)
    directions = max_margin_direction(weight)
    for label in range(6):
        # The shortest point of the hull of the edges is the margin vector that separates them from their mirror images.
        edges = torch.cat([weight[label] - weight[:label], weight[label] - weight[label + 1 :]])
        fitted = svm.LinearSVC(C=1e6, loss="hinge", fit_intercept=False, max_iter=1_000_000, tol=1e-10).fit(
            torch.cat([edges, -edges]).numpy(), [1] * 5 + [0] * 5
        )
        torch.testing.assert_close(directions[label], unit(torch.tensor(fitted.coef_[0])), atol=1e-4, rtol=0)


def test_optimality_of_the_shortest_point_at_scale():
    weight, _ = random_head(40, 200, seed=4)
    directions = max_margin_direction(weight)
    margins = (directions[:, None] * (weight[:, None] - weight[None])).sum(2).fill_diagonal_(math.inf)
    # Shortest in the hull: its length is the least margin (weak duality with equality certifies the optimum).
    length = margins.amin(1)
    nearest = (margins - length[:, None]) < 1e-9 * length[:, None]
    assert bool((length > 0).all())
    for label in (0, 17, 39):
        edges = weight[label] - weight[nearest[label]]
        share = torch.linalg.lstsq(edges.T, (length[label] * directions[label])[:, None]).solution[:, 0]
        assert float(share.min()) > -1e-9
        assert float(share.sum()) == pytest.approx(1, abs=1e-8)


def test_a_class_inside_the_hull_has_no_limit():
    weight = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0], [0.0, 0.0]])
    directions = max_margin_direction(weight)
    assert bool(directions[4].isnan().all())
    torch.testing.assert_close(directions[:4], unit(weight[:4].double()))


def test_angle_is_accurate_where_acos_is_not():
    first = torch.tensor([[1.0, 0.0]]).double()
    second = torch.tensor([[math.cos(1e-9), math.sin(1e-9)]]).double()
    assert float(angle(first, second)) == pytest.approx(1e-9, rel=1e-6)
    assert float(angle(first, -first)) == pytest.approx(math.pi)
    assert math.isnan(float(angle(first, 0 * first)))


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="radii"):
        radius_sensitivity(simplex(3), None, [])
    with pytest.raises(ValueError, match="K ≥ 2"):
        max_margin_direction(torch.ones(1, 2))
