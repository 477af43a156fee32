"""An attack's bookkeeping under Triton's interpreter, against the reference."""

from __future__ import annotations

import os

import pytest
import torch

pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("with a GPU tests/gpu runs the kernels themselves", allow_module_level=True)

from regfast.ops.reference import lanes as reference
from regfast.ops.reference import squares as reference_squares
from regfast.ops.triton import boundary, lanes
from regfast.ops.triton import squares as triton_squares
from tests.ops import test_squares as squares
from tests.ops.test_boundary import ERROR, heavy_without_room, moves, nan_lane, of_float64, ties
from tests.ops.triton_inputs import poisoned

__all__ = ["poisoned"]

SHAPES = [(7, 2, 3, 5), (9, 2100), (1, 1), (0, 4)]


def test_classes():
    for classes in (1, 2, 10, 2500):
        z = torch.randint(4, (9, classes)).float()  # many ties
        z[1, -1], z[2, 0], z[3] = torch.nan, torch.inf, -torch.inf
        assert torch.equal(lanes.predicted(z), reference.predicted(z))
    wide = torch.randn(5, 8)[:, ::2]
    assert torch.equal(lanes.predicted(wide), wide.argmax(1))
    assert lanes.predicted(torch.zeros(0, 3)).shape == (0,)


@pytest.mark.parametrize("shape", [*SHAPES, (3, 0)], ids=str)
def test_gradients_of_every_size(poisoned, shape):
    g = torch.randn(shape) * 2.0 ** torch.randint(-160, 100, shape[:1]).view(-1, *[1] * (len(shape) - 1))
    if len(g) > 5:
        g[0], g[1], g[2] = 0.0, g[1].abs().clamp(max=1.0) * 2.0**-149, 3e38
    found = lanes.near_one(g)
    if g.numel():
        assert torch.equal(found, reference.near_one(g))
        assert len(g) < 6 or found[5].abs().amax() < 1
    assert found.shape == g.shape


@pytest.mark.parametrize("reach", [False, True])
@pytest.mark.parametrize("asks", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_verdicts(poisoned, shape, reach, asks):
    count, steps = shape[0], 5
    for _ in range(4):
        given = (
            torch.rand(shape), torch.randn(count), torch.randint(-1, 3, (count,)), torch.randint(3, (count,)),
            torch.randint(steps - 1, steps + 2, (count,)), torch.rand(count) < 0.3,
            torch.rand(count) < 0.6 if asks else None,
        )  # fmt: skip
        kept = torch.rand(shape), torch.randn(count), torch.randint(3, (count,))
        ours, theirs = ([tensor.clone() for tensor in kept] for _ in range(2))
        found = lanes.judge(*given, *ours, reach=reach, steps=steps)
        right = reference.judge(*given, *theirs, reach=reach, steps=steps)
        for one, other in zip((*found, *ours), (*right, *theirs), strict=True):
            assert one.dtype == other.dtype
            assert torch.equal(one, other)


@pytest.mark.parametrize("one_radius", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_ascents(poisoned, shape, one_radius):
    count, ends = shape[0], torch.tensor([0, 0, 2, 0, 1, 0, 0, 0.0])
    state = {
        "best": torch.rand(shape), "best_gradient": torch.randn(shape), "size": torch.rand(count),
        "best_loss": torch.randn(count), "last_loss": torch.randn(count), "rises": torch.randint(3, (count,)).float(),
        "checked_loss": torch.randn(count), "halved": torch.rand(count) < 0.5,
    }  # fmt: skip
    ours, theirs = ({name: tensor.clone() for name, tensor in state.items()} for _ in range(2))
    eps = 0.3 if one_radius else torch.rand(count)
    halvings = 0
    for made in range(7):
        point, gradient, loss = torch.rand(shape), torch.randn(shape), torch.randn(count)
        step = (torch.arange(count) + made) % 7
        if count > 2:
            loss[2] = torch.nan
        found, right = (
            module.ascend(point, gradient, loss, step, *held.values(), ends, eps, 0.75)
            for module, held in ((lanes, ours), (reference, theirs))
        )
        for one, other in zip(found, right, strict=True):
            assert one.dtype == other.dtype
            torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
        for held, after in ((ours, found), (theirs, right)):
            held.update({name: getattr(after, name) for name in held})
        halvings += int((found.point != point).any())
    assert halvings > 0 or count < 7


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_moves_over_the_boundary(poisoned, shape, norm):
    given = point, image, rise, slope, across = moves(shape)
    wide = torch.stack((rise, rise), 1)[:, 0], slope.unsqueeze(1).expand(-1, 2, *slope.shape[1:])[:, 1]
    for eta in (1.05, 1 + torch.rand(len(image))):
        right = of_float64(given, eta, norm)
        for tensors in (given, (point, image, *wide, across)):
            found = boundary.boundary_step(*tensors, eta, 0.1, 0.9, norm)
            assert found.shape == shape
            torch.testing.assert_close(found.double(), right, rtol=0, atol=ERROR[norm])
    plain = boundary.boundary_step(point, image, rise, slope, across, 1.0, 0.1, 0.9, norm)
    for factor in (2.0**-80, 3.0, 2.0**80):
        other = boundary.boundary_step(point, image, rise * factor, slope * factor, across, 1.0, 0.1, 0.9, norm)
        torch.testing.assert_close(other, plain, rtol=0, atol=ERROR[norm])


def test_a_slope_beyond_all_others(poisoned):
    heavy_without_room(boundary.boundary_step)


def test_equal_weights_move_in_their_order(poisoned):
    ties(boundary.boundary_step)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_nan_moves_nowhere(poisoned, norm):
    nan_lane(boundary.boundary_step, norm)


@pytest.mark.parametrize("shape", squares.SHAPES, ids=str)
def test_squares_painted_anew(poisoned, shape):
    for eps in squares.radii(shape):
        best, image, draws, side = given = squares.squares(shape)
        assert torch.equal(triton_squares.repaint(*given, eps), reference_squares.repaint(*given, eps))
        gapped = torch.stack((draws, draws), 1)[:, 1]
        last = [tensor.contiguous(memory_format=torch.channels_last) for tensor in (best, image)]
        found = triton_squares.repaint(*last, gapped, torch.stack((side, side), 1)[:, 0], eps)
        assert torch.equal(found, reference_squares.repaint(*given, eps))
