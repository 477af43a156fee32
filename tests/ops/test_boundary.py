"""FAB's move, and the nearest point of a plane in the box: against scipy and float64, and the rules that hold."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from regfast.ops.boundary import boundary_step
from regfast.ops.dispatch import unavailable, use_backend
from regfast.ops.reference.boundary import boundary_step as reference_step
from regfast.ops.reference.boundary import to_plane

# Of points in float32. In l1 the last entry to move makes up for the rounding of thousands of sums.
ERROR = {"linf": 5e-6, "l2": 5e-6, "l1": 1e-3}
BACKENDS = [name for name in ("reference", "cpu") if unavailable(name) is None]

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


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("shape", [(9, 3, 7, 5), (6, 3072), (3, 1), (2, 1025), (0, 4)], ids=str)
def test_every_backends_move_is_that_of_float64(norm, shape):
    given = moves(shape)
    right = of_float64(given, 1.05, norm)
    for backend in BACKENDS:
        with use_backend(backend):
            found = boundary_step(*given, 1.05, 0.1, 0.9, norm)
        assert found.shape == shape and found.dtype == torch.float32
        torch.testing.assert_close(found.double(), right, rtol=0, atol=ERROR[norm])
        assert len(found) == 0 or ((found >= 0).all() and (found <= 1).all())


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_one_overshoot_a_lane_any_layout_and_arguments_left_alone(norm):
    point, image, rise, slope, across = given = moves((5, 3, 6, 6))
    eta = torch.tensor([1.0, 1.05, 1.0, 1.5, 2.0])
    right = torch.cat([
        reference_step(*(t[i : i + 1] for t in given), eta[i].item(), 0.1, 0.9, norm) for i in range(5)
    ])  # fmt: skip
    last = [t.contiguous(memory_format=torch.channels_last) for t in (point, image, slope)]
    wide = torch.stack((rise, rise), 1)[:, 0]
    for backend in BACKENDS:
        copies = [t.clone() for t in given]
        with use_backend(backend):
            found = boundary_step(*given, eta, 0.1, 0.9, norm)
            other = boundary_step(last[0], last[1], wide, last[2], across, eta.repeat(2)[:5], 0.1, 0.9, norm)
        torch.testing.assert_close(found, right, rtol=0, atol=2e-6 if norm != "l1" else 1e-4)
        assert torch.equal(found, other)
        assert all(map(torch.equal, given, copies))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_gradients_of_any_size_and_none_at_all(norm, backend):
    point, image, rise, slope, across = moves((6, 3, 4, 4))
    with use_backend(backend):
        plain = boundary_step(point, image, rise, slope, across, 1.05, 0.1, 0.9, norm)
        huge = boundary_step(point, image, rise * 2.0**80, slope * 2.0**80, across, 1.05, 0.1, 0.9, norm)
        far = boundary_step(point, image, torch.full_like(rise, -torch.inf), slope, across, 1.05, 0.1, 0.9, norm)
        tiny = boundary_step(point, image, rise * 2.0**-80, slope * 2.0**-80, across, 1.05, 0.1, 0.9, norm)
        none = boundary_step(point, image, rise, slope * 0, torch.zeros_like(across), 1.05, 0.1, 0.9, norm)
        there = boundary_step(point, point, rise * 0, slope, across, 1.05, 0.1, 0.9, norm)
    for other in (tiny, huge):
        torch.testing.assert_close(other, plain, rtol=0, atol=2e-6 if norm != "l1" else 1e-4)
    moving = slope != 0
    torch.testing.assert_close(far[moving], (slope > 0).float()[moving], rtol=0, atol=1e-6)  # the corner
    mixed = 0.9 * point + 0.1 * image  # two moves of no length: the mean, as far as alpha_max lets it
    torch.testing.assert_close(none, mixed, rtol=0, atol=1e-6)
    torch.testing.assert_close(there, point, rtol=0, atol=1e-7)


def nan_lane(step, norm: str) -> None:
    """Where the model answers NaN the lane moves to no plane, and the others do as ever."""
    point, image, rise, slope, across = moves((6, 3, 4, 4))
    right = step(point, image, rise, slope, across, 1.05, 0.1, 0.9, norm)
    rise, across[1] = rise.clone(), False
    rise[1] = torch.nan
    found = step(point, image, rise, slope, across, 1.05, 0.1, 0.9, norm)
    torch.testing.assert_close(found[1], 0.9 * point[1] + 0.1 * image[1], rtol=0, atol=1e-6)
    assert torch.equal(found[[0, 2, 3, 4, 5]], right[[0, 2, 3, 4, 5]])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_nan_moves_nowhere(norm, backend):
    with use_backend(backend):
        nan_lane(boundary_step, norm)


def heavy_without_room(step) -> None:
    """A slope beyond all others, of an entry that can't move: an infinite gradient, cut off at float32's end."""
    image, rise, stays = torch.tensor([[1.0, 0.5, 0.5]]), torch.tensor([-0.2]), torch.tensor([False])
    for height in (1.0, 1e18, 1e22, 1e25, 1e31, 3.4e38):
        slope = torch.tensor([[height, 1.0, 1.0]])
        for norm, right in (("linf", [1.0, 0.6, 0.6]), ("l2", [1.0, 0.6, 0.6]), ("l1", [1.0, 0.7, 0.5])):
            if norm == "linf" and height > 1e6:
                continue  # its sum of weights has no digits left for the others
            found = step(image, image, rise, slope, stays, 1.0, 0.0, 0.9, norm)
            torch.testing.assert_close(found, torch.tensor([right]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_slope_beyond_all_others(backend):
    with use_backend(backend):
        heavy_without_room(boundary_step)


@pytest.mark.skipif("cpu" not in BACKENDS, reason="no native extension")
def test_shapes_that_do_not_fit_are_named():
    point, image, rise, slope, across = moves((4, 3))
    with use_backend("cpu"):
        for wrong, name in (
            ((point, image[:3], rise, slope, across, 1.0), "image"),
            ((point, image, rise[:3], slope, across, 1.0), "rise"),
            ((point, image, rise, slope[:, :2], across, 1.0), "slope"),
            ((point, image, rise, slope, across[:1], 1.0), "across"),
            ((point, image, rise, slope, across, rise[:2]), "eta"),
        ):
            with pytest.raises(ValueError, match=name):
                boundary_step(*wrong, 0.1, 0.9, "linf")


def moves(shape: tuple[int, ...]) -> tuple[torch.Tensor, ...]:
    """Points, images, rises whose planes lie in the box, near, and out of reach, slopes, and who is across."""
    image = torch.rand(shape)
    point = (image + 0.2 * torch.randn(shape)).clamp(0, 1)
    slope = torch.randn(shape).sign() * (0.5 + torch.rand(shape)) * (torch.rand(shape) > 0.1)
    reach = slope.flatten(1).abs().sum(1) * torch.tensor([0.01, 0.3, 2.0]).repeat(len(image))[: len(image)]
    return point, image, reach * torch.randn(len(image)), slope, torch.rand(len(image)) < 0.5


def of_float64(given: tuple[torch.Tensor, ...], eta: float | torch.Tensor, norm: str) -> torch.Tensor:
    """The reference's answer in float64."""
    return reference_step(*(t.double() if t.is_floating_point() else t for t in given), eta, 0.1, 0.9, norm)


def ties(step) -> None:
    """In l1 entries of one weight go one after the other, in their order."""
    point, image, rise, slope, across = moves((12, 1, 9, 23))
    slope = (slope * 2).round() / 2
    given = point, image, rise, slope, across
    torch.testing.assert_close(
        step(*given, 1.05, 0.1, 0.9, "l1").double(), of_float64(given, 1.05, "l1"), rtol=0, atol=1e-4
    )
    point, slope = torch.full((1, 1500), 0.5), torch.ones(1, 1500)
    found = step(point, point, torch.tensor([-3.25]), slope, torch.tensor([False]), 1.0, 0.1, 0.9, "l1")
    right = torch.tensor([1.0] * 6 + [0.75] + [0.5] * 1493)
    torch.testing.assert_close(found[0], right, rtol=0, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_equal_weights_move_in_their_order(backend):
    with use_backend(backend):
        ties(boundary_step)
