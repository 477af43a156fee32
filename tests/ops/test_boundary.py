"""The nearest point of a plane in the box: against scipy's programs in float64, and the rules that hold exactly."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from regfast.attacks.projections import to_plane

LENGTH = {"linf": lambda d: d.abs().amax(1), "l2": lambda d: d.norm(dim=1), "l1": lambda d: d.abs().sum(1)}


def problem(seed: int, rows: int, size: int, share: float, dtype=torch.float64):
    """Points, weights (some zero, some entries at the edge), and a reachable rise: `share` of the largest there is."""
    draw = torch.Generator().manual_seed(seed)
    point = torch.rand(rows, size, generator=draw, dtype=dtype)
    point = torch.where(torch.rand(rows, size, generator=draw) < 0.2, point.round(), point)
    weight = torch.randn(rows, size, generator=draw, dtype=dtype)
    weight = torch.where(torch.rand(rows, size, generator=draw) < 0.1, torch.zeros_like(weight), weight)
    weight[:, 0] = 1.0
    point[:, 0] = 0.5
    sign = torch.where(torch.rand(rows, generator=draw) < 0.5, -1.0, 1.0).to(dtype)
    room = torch.where(weight * sign[:, None] > 0, 1 - point, point)
    return point, weight, sign * share * (weight.abs() * room).sum(1)


def shortest(norm: str, x: np.ndarray, w: np.ndarray, rise: float) -> float:
    """The least norm by scipy: a linear program for linf and l1, a quadratic one for l2."""
    n = len(x)
    if norm == "l2":
        result = optimize.minimize(
            lambda d: d @ d, np.zeros(n), jac=lambda d: 2 * d, bounds=list(zip(-x, 1 - x, strict=True)),
            constraints={"type": "eq", "fun": lambda d: w @ d - rise, "jac": lambda d: w},
            method="SLSQP", options={"ftol": 1e-14, "maxiter": 1000},
        )  # fmt: skip
        assert result.success
        return float(np.sqrt(result.fun))
    eye, count = np.eye(n), 1 if norm == "linf" else n
    bound = np.ones((n, 1)) if norm == "linf" else eye
    result = optimize.linprog(
        np.r_[np.zeros(n), np.ones(count)],
        A_ub=np.block([[eye, -bound], [-eye, -bound]]), b_ub=np.zeros(2 * n),
        A_eq=np.r_[w, np.zeros(count)][None], b_eq=[rise],
        bounds=[*zip(-x, 1 - x, strict=True), *[(0, None)] * count],
    )  # fmt: skip
    assert result.success
    return float(result.fun)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("share", [0.01, 0.3, 0.9])
def test_as_short_as_the_program_says(norm, share):
    point, weight, missing = problem(int(share * 100), 6, 12, share)
    move = to_plane(norm, point, weight, missing)
    torch.testing.assert_close((weight * move).sum(1), missing, rtol=1e-9, atol=1e-12)
    for x, w, rise, length in zip(point.numpy(), weight.numpy(), missing.tolist(), LENGTH[norm](move), strict=True):
        assert length.item() == pytest.approx(shortest(norm, x, w, rise), rel=1e-5)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.sampled_from(["linf", "l2", "l1"]), st.floats(0.0, 0.999), st.integers(1, 300))
def test_on_the_plane_and_in_the_box(seed, norm, share, size):
    point, weight, missing = problem(seed, 4, size, share, torch.float32)
    move = to_plane(norm, point, weight, missing)
    scale = weight.abs().sum(1)
    assert (((weight * move).sum(1) - missing).abs() <= 1e-5 * scale).all()
    assert (point + move >= -1e-6).all() and (point + move <= 1 + 1e-6).all()
    assert (move[weight == 0] == 0).all()


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_a_plane_out_of_reach_gives_the_nearest_corner(norm):
    point, weight, missing = problem(3, 5, 20, 1.5)
    move = to_plane(norm, point, weight, missing)
    up = weight * missing.sign()[:, None]
    corner = torch.where(up > 0, 1.0, torch.where(up < 0, 0.0, point))
    torch.testing.assert_close(point + move, corner)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_no_way_to_go_and_no_weight(norm):
    point, weight, _ = problem(4, 2, 8, 0.5)
    assert (to_plane(norm, point, weight, torch.zeros(2, dtype=torch.float64)) == 0).all()
    still = to_plane(norm, point, torch.zeros_like(weight), torch.ones(2, dtype=torch.float64))
    assert still.isfinite().all() and (still == 0).all()


def test_float32_keeps_its_precision_when_little_is_missing():
    point, weight, missing = problem(5, 8, 3072, 1e-4, torch.float32)
    for norm in ("linf", "l2", "l1"):
        move = to_plane(norm, point, weight, missing).double()
        torch.testing.assert_close((weight.double() * move).sum(1), missing.double(), rtol=1e-4, atol=0)
