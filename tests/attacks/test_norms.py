"""Norm objects against brute force."""

import pytest
import torch

from regfast.attacks.norms import NORMS, norm_of
from regfast.ops.perturbation import l1_box_projection
from tests.attacks.problems import generator


def points(count: int = 20, spread: float = 0.5, seed: int = 0):
    rng = generator(seed)
    image = torch.rand(count, 2, 3, 4, generator=rng)
    return image, image + spread * torch.randn(count, 2, 3, 4, generator=rng)


@pytest.mark.parametrize("name", ["linf", "l2", "l1"])
def test_projections_end_in_ball_and_box_and_leave_the_inside_alone(name):
    norm = norm_of(name)
    image, point = points()
    for eps in (0.0, 0.1, 1.0, torch.linspace(0, 2, 20)):
        out = norm.project(point, image, eps)
        assert (norm.distance(out - image) <= torch.as_tensor(eps) + 1e-6).all()
        assert out.min() >= 0
        assert out.max() <= 1
    inside = image + 0.01 * (0.5 - image)
    torch.testing.assert_close(norm.project(inside, image, 5.0), inside)


def test_l1_projection_is_the_nearest_point_of_ball_and_box():
    image, point = points(30)
    delta = (point - image).double()
    image = image.double()
    for eps in (0.05, 0.5, 2.0, 20.0):
        got = l1_box_projection(image, delta, eps).flatten(1)
        # The dual by bisection, in float64: shrink by one number per lane until the sum fits.
        size, sign = delta.flatten(1).abs(), delta.flatten(1).sign()
        room = torch.where(sign > 0, 1 - image.flatten(1), image.flatten(1))
        low, high = torch.zeros(30, 1).double(), size.amax(1, keepdim=True)
        for _ in range(200):
            middle = (low + high) / 2
            over = (size - middle).clamp(min=0).minimum(room).sum(1, keepdim=True) > eps
            low, high = torch.where(over, middle, low), torch.where(over, high, middle)
        free = size.minimum(room)
        fits = free.sum(1, keepdim=True) <= eps
        expected = sign * torch.where(fits, free, (size - high).clamp(min=0).minimum(room))
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["linf", "l2"])
def test_ascent_rises_by_the_dual_norm(name):
    norm = NORMS[name]
    gradient = torch.randn(9, 2, 3, 4, generator=generator(1))
    way = norm.ascent(gradient)
    torch.testing.assert_close(norm.distance(way), torch.ones(9))
    torch.testing.assert_close((way * gradient).flatten(1).sum(1), norm.dual(gradient))


def test_l1_dual_bounds_every_direction():
    gradient = torch.randn(9, 2, 3, 4, generator=generator(1))
    way = NORMS["l1"].ascent(gradient)
    torch.testing.assert_close(NORMS["l1"].distance(way), torch.ones(9))
    rise = (way * gradient).flatten(1).sum(1)
    assert (rise <= NORMS["l1"].dual(gradient) + 1e-6).all()
    assert (rise > 0).all()


@pytest.mark.parametrize("name", ["linf", "l2"])
def test_momentum_step_is_the_papers(name):
    norm = NORMS[name]
    image, point = points(6, spread=0.01)
    point = norm.project(point, image, 0.3)
    previous = norm.project(image + 0.02 * torch.randn(image.shape, generator=generator(3)), image, 0.3)
    gradient = torch.randn(image.shape, generator=generator(4))
    size, share = torch.linspace(0.01, 0.2, 6), torch.tensor([1.0, 0.75, 0.75, 1.0, 0.75, 0.5])
    got = norm.momentum_step(point, gradient, previous, image, size, 0.3, share)
    for row in range(6):
        one = slice(row, row + 1)
        z = norm.step(point[one], gradient[one], image[one], size[row].item(), 0.3)
        a = share[row]
        expected = norm.project(
            point[one] + a * (z - point[one]) + (1 - a) * (point[one] - previous[one]), image[one], 0.3
        )
        torch.testing.assert_close(got[one], expected, rtol=1e-5, atol=1e-6)


def test_unknown_norm_is_named():
    with pytest.raises(ValueError, match="linf, l2, l1"):
        norm_of("l7")
