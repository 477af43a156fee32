"""Square's schedule, windows and moves: what holds for every draw, on images of any shape."""

import math
from itertools import pairwise

import pytest
import torch

from regfast.attacks.norms import norm_of
from regfast.attacks.square import HALVINGS, Square
from regfast.attacks.square_moves import Bumps, Squares
from tests.attacks.test_fab import linear_problem

SHAPES = [(3, 8, 8), (1, 6, 11), (2, 13, 5), (3, 4, 4)]


def asked(norm: str, shape, eps: float, queries: int, seed: int = 0, n: int = 3):
    """Images of middling brightness that are never broken, and every point the model is asked at."""
    images = 0.3 + 0.4 * torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed))
    points = []

    def model(batch):
        points.append(batch.detach().clone())
        flat = batch.flatten(1)
        return torch.stack((3 + 0.1 * flat[:, 0], -flat.mean(1)), 1)

    result = Square(norm, eps, steps=queries).run(model, images, torch.zeros(n, dtype=torch.int64), lanes=n, seed=seed)
    assert result.robust.all()
    points = [p for p in points if p.shape == images.shape][-queries - 1 :]
    return images, points


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("norm, eps", [("linf", 0.1), ("l2", 0.7), ("l1", 4.0)])
def test_every_point_lies_in_ball_and_box(norm, eps, shape):
    images, points = asked(norm, shape, eps, 40)
    order = {"linf": torch.inf, "l2": 2, "l1": 1}[norm]
    for point in points:
        assert ((point >= 0) & (point <= 1)).all()
        assert ((point - images).flatten(1).norm(p=order, dim=1) <= eps * (1 + 1e-5)).all()
    assert len({point.mul(1e4).round().sum().item() for point in points}) > 10


def test_linf_starts_with_stripes_and_sets_squares_of_one_sign():
    eps, side = 0.05, 12  # sqrt(0.8 · 16 · 12) = 12.4
    images, points = asked("linf", (3, 16, 12), eps, 10)
    start = points[0] - images
    torch.testing.assert_close(start.abs(), torch.full_like(start, eps))
    assert (start.sign() == start[:, :, :1].sign()).all()
    assert 0.3 < (start > 0).float().mean() < 0.7
    for point in points[1:]:
        delta = point - images
        torch.testing.assert_close(delta.abs(), torch.full_like(delta, eps))
        assert all(squares_of_one_sign(lane.sign(), side) for lane in delta)


def squares_of_one_sign(signs, side: int) -> bool:
    """Whether some window of this side holds one sign per channel."""
    windows = signs.unfold(1, side, 1).unfold(2, side, 1).sum((3, 4)).abs() == side * side
    return bool(windows.all(0).any())


def test_window_sides_follow_the_schedule():
    assert HALVINGS == (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)

    class Width:
        image = torch.rand(2, 3, 32, 32)

    squares = Squares([math.sqrt(0.8 / 2**k * 32 * 32) for k in range(10)], Width)
    assert squares.sides.tolist() == [29, 20, 14, 10, 7, 5, 4, 3, 2, 1]
    at = torch.tensor([0, 10, 11, 50, 51, 200, 201, 4000, 4001, 8001])
    assert torch.bucketize(at, torch.tensor(HALVINGS)).tolist() == [0, 0, 1, 1, 2, 2, 3, 6, 7, 9]
    bumps = Bumps(norm_of("l2"), [29.0, 20.0, 14.2, 1.0], Width)
    assert bumps.sides.tolist() == [29, 21, 15, 3]


@pytest.mark.parametrize("power, norm", [(2, "l2"), (1, "l1")])
def test_bumps_have_norm_one_and_no_sum(power, norm):
    class Width:
        image = torch.rand(2, 3, 32, 32)

    moves = Bumps(norm_of(norm), [29.0], Width)
    for side in (2, 3, 6, 7, 29):
        bump = moves.bump(side)
        assert bump.shape == (side, side)
        assert (bump.abs() ** power).sum().item() == pytest.approx(1, abs=1e-5)
        assert (bump[: side // 2] > 0).all()
        assert (bump[side // 2 :] < 0).all()


def test_windows_reach_the_last_row_and_column():
    _, points = asked("linf", (1, 6, 9), 0.1, 300, n=4)
    changed = torch.zeros(6, 9, dtype=torch.bool)
    for a, b in pairwise(points):
        changed |= (a != b).any(0)[0]
    assert changed.all()


@pytest.mark.parametrize("norm, eps", [("linf", 0.05), ("l2", 0.6), ("l1", 3.0)])
def test_breaks_a_linear_model_without_gradients(norm, eps):
    model, images, labels, _ = linear_problem(7)
    result = Square(norm, eps, steps=400).run(model, images, labels)
    assert result.success.float().mean() > 0.5
    assert (result.gradients == 0).all()
    assert (model(result.images).argmax(1) != labels)[result.success].all()
    assert (result.queries <= 402).all()


def test_margin_never_rises():
    model, images, labels, _ = linear_problem(8)
    few = Square("linf", 0.002, steps=20).run(model, images, labels, seed=3)
    many = Square("linf", 0.002, steps=150).run(model, images, labels, seed=3)
    assert (many.robust <= few.robust).all()


def test_draws_depend_on_seed_and_sample_alone():
    model, images, labels, _ = linear_problem(9, n=12)
    attack = Square("linf", 0.02, steps=60)
    one = attack.run(model, images, labels, lanes=12, seed=5, channels_last=False)
    other = attack.run(model, images, labels, lanes=5, seed=5, channels_last=False)
    back = attack.run(
        model, images.flip(0), labels.flip(0), lanes=3, seed=5, sample_ids=torch.arange(12).flip(0), channels_last=False
    )
    assert torch.equal(one.images, other.images)
    assert torch.equal(one.images, back.images.flip(0))
    assert torch.equal(one.queries, other.queries)
    assert not torch.equal(one.images, attack.run(model, images, labels, seed=6).images)


@pytest.mark.parametrize("wrong", [{"p_init": 0.0}, {"p_init": 1.5}, {"loss": "dlr"}, {"steps": 0}, {"norm": "l0"}])
def test_bad_arguments(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Square(**wrong)
