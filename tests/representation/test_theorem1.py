import math

import pytest
import torch

from regfast.representation import (
    etf_minimizer_norm,
    free_minimizer,
    simplex_etf,
    smoothed_targets,
    theorem1,
    turning_smoothing,
)
from tests.representation.closed_forms import random_head, simplex, unit

LEVELS = [0.0, 0.01, 0.05, 0.1, 0.3, 0.6, 1.0]


@pytest.mark.parametrize(("num_classes", "omega"), [(2, 1.0), (10, 1.7), (30, 0.4)])
@pytest.mark.parametrize("ridge", [1e-4, 1e-2])
def test_simplex_etf_matches_its_closed_form(num_classes, omega, ridge):
    result = theorem1(simplex(num_classes, num_classes + 3, omega), None, LEVELS, ridge=ridge)
    expected = torch.tensor(
        [etf_minimizer_norm(num_classes, omega, level, ridge) for level in LEVELS], dtype=torch.float64
    )
    torch.testing.assert_close(result.norm, expected[:, None].expand(-1, num_classes), atol=1e-11, rtol=1e-11)
    torch.testing.assert_close(result.projection, omega * result.norm)
    # Theorem 1: b = 0 and equal norms, so that every step toward softer labels shortens the feature.
    assert not bool(result.norm_rises().any())
    assert bool((result.norm[1:] < result.norm[:-1]).all())


@pytest.mark.parametrize(("num_classes", "dim"), [(2, None), (3, 5), (10, None), (100, 100)])
def test_simplex_etf_has_its_gram_matrix(num_classes, dim):
    rows = simplex_etf(num_classes, dim, weight_norm=1.7)
    gram = (torch.eye(num_classes, dtype=torch.float64) * num_classes - 1) / (num_classes - 1)
    assert rows.shape == (num_classes, dim or num_classes - 1)
    torch.testing.assert_close(rows @ rows.T, 1.7**2 * gram, atol=1e-12, rtol=0)
    torch.testing.assert_close(rows.sum(dim=0), torch.zeros(rows.shape[1]).double(), atol=1e-12, rtol=0)
    with pytest.raises(ValueError, match="dim"):
        simplex_etf(num_classes, num_classes - 2)


def test_closed_form_without_ridge():
    free = etf_minimizer_norm(10, 1.7, 0.1)
    assert free == pytest.approx(9 / 17 * math.log(91), rel=1e-12)
    assert etf_minimizer_norm(10, 1.7, 0.1, 1e-12) == pytest.approx(free, rel=1e-6)
    assert etf_minimizer_norm(10, 1.7, 0.0) == math.inf
    assert etf_minimizer_norm(10, 1.7, 1.0) == 0
    with pytest.raises(ValueError, match="num_classes"):
        etf_minimizer_norm(1, 1.0, 0.1)


def test_the_projection_never_grows_and_the_norm_sometimes_does():
    steps, norm_fails = 0, 0
    for seed in range(40):
        # Large biases: where the theorem's assumption fails.
        weight, bias = random_head(6, 8, seed=seed)
        result = theorem1(unit(weight), bias, LEVELS, ridge=0.1)
        assert not bool(result.projection_rises().any()), seed
        norm_fails += int(result.norm_rises().any(dim=0).sum())
        steps += result.norm_rises().numel()
    assert steps == 40 * 6 * 6
    assert norm_fails > 0


def free_norms(weight, bias, levels):
    return torch.stack([free_minimizer(weight, bias, smoothed_targets(len(weight), x)).norm(dim=1) for x in levels])


def test_without_bias_the_free_norm_always_falls():
    levels = torch.linspace(0.001, 1, 40).tolist()
    for seed in range(10):
        weight, _ = random_head(6, 8, seed=seed)
        assert bool((turning_smoothing(weight, None) == 1).all())
        assert bool((free_norms(weight, None, levels).diff(dim=0) < 0).all())


def test_with_bias_the_norm_turns_where_it_is_said_to():
    turned = 0
    for seed in range(10):
        weight, bias = random_head(6, 8, seed=seed)
        turn = turning_smoothing(weight, bias)
        for label in torch.nonzero(turn < 0.999)[:, 0].tolist():
            at = float(turn[label])
            before, here, after = free_norms(weight, bias, [at * 0.999, at, min(1.0, at * 1.001)])[:, label]
            assert here < before
            assert here < after
            turned += 1
    assert turned > 10


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="rising"):
        theorem1(simplex(3), None, [0.1, 0.1], ridge=1.0)
    with pytest.raises(ValueError, match="smoothing must have at least one entry"):
        theorem1(simplex(3), None, [], ridge=1.0)
    with pytest.raises(ValueError, match="positive everywhere"):
        theorem1(simplex(3), None, [0.0], ridge=0.0)
