"""Square Attack's move in linf, against a loop over lanes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from regfast.ops.squares import repaint

SHAPES = [(7, 3, 9, 6), (5, 1, 28, 28), (2, 3, 40, 33), (3, 2, 1, 1), (0, 3, 4, 4)]


def squares(shape: tuple[int, ...]) -> tuple[Tensor, ...]:
    lanes, channels, height, width = shape
    image = torch.rand(shape)
    best = (image + 0.2 * torch.randn(shape)).clamp(0, 1)
    draws = torch.rand(lanes, 2 + channels)
    if lanes > 2:
        draws[0, :2], draws[1, :2] = 0.0, 1 - 2.0**-24  # the first and the last place
    return best, image, draws, torch.randint(1, min(height, width) + 1, (lanes,))


def radii(shape: tuple[int, ...]) -> list[float | Tensor]:
    return [0.1, torch.tensor(0.2), torch.rand(shape[0]), torch.rand(shape), torch.rand(1, shape[1], 1, 1)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_one_square_a_lane_is_painted_anew(shape):
    height, width = shape[-2:]
    for eps in radii(shape):
        given = best, image, draws, side = squares(shape)
        copies = [tensor.clone() for tensor in given]
        found = repaint(*given, eps)
        one_each = eps.view(-1, 1, 1, 1) if isinstance(eps, Tensor) and eps.ndim == 1 else torch.as_tensor(eps)
        radius = one_each.expand(shape)
        for lane in range(shape[0]):
            size = int(side[lane])
            top, left = int(draws[lane, 0] * (height - size + 1)), int(draws[lane, 1] * (width - size + 1))
            right, inside = best[lane].clone(), (slice(top, top + size), slice(left, left + size))
            for channel, draw in enumerate(draws[lane, 2:]):
                color = image[lane, channel] + radius[lane, channel] * (-1.0 if draw < 0.5 else 1.0)
                right[channel][inside] = color.clamp(0, 1)[inside]
            assert torch.equal(found[lane], right)
            assert 0 <= top <= height - size and 0 <= left <= width - size
        assert all(map(torch.equal, given, copies))
