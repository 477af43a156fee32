"""How Square Attack begins and what it tries next: squares of one color (linf), bumps of shifting mass (l2, l1).

Every lane has its own window, whose side depends on the queries it has spent: windows are masks over the whole image.
"""

from __future__ import annotations

import torch
from torch import Tensor

from regfast.attacks.lanes import Lanes, spread
from regfast.attacks.norms import Norm
from regfast.ops.reference.squares import signs_of, window
from regfast.ops.squares import repaint

TINY = 1e-12


class Squares:
    """linf (algorithm 2): the perturbation is ±eps everywhere; a move sets it to one sign per channel in a square."""

    def __init__(self, sides: list[float], lanes: Lanes):
        """Fix the windows' sides for the halvings of the schedule, from their real-valued `sides`."""
        least = min(lanes.image.shape[-2:])
        self.sides = torch.tensor([min(max(round(side), 1), least) for side in sides], device=lanes.image.device)

    def start(self, lanes: Lanes, rows: Tensor) -> Tensor:
        """Vertical stripes of random sign, per channel."""
        image = lanes.image[rows]
        channels, _, width = image.shape[1:]
        signs = signs_of(lanes.uniform(channels * width, rows, stage=1)).view(-1, channels, 1, width)
        return (image + spread(lanes.radius(rows), image) * signs).clamp(0, 1)

    def move(self, lanes: Lanes, best: Tensor, halved: Tensor) -> Tensor:
        """The best point with one square set anew."""
        draws = lanes.uniform(2 + lanes.image.shape[1])
        return repaint(best, lanes.image, draws, self.sides[halved], lanes.radius())


class Bumps:
    """l2 and l1 (algorithm 3): a move takes the mass of two windows, and what is left of eps, into one of them."""

    def __init__(self, norm: Norm, sides: list[float], lanes: Lanes):
        """Fix the windows' sides (odd where they fit) for the halvings of the schedule, and their bumps."""
        self.norm, self.power = norm, 2 if norm.name == "l2" else 1
        least = min(lanes.image.shape[-2:])
        whole = [min(max(round(side), 3) | 1, least) for side in sides]
        self.sides = torch.tensor(whole, device=lanes.image.device)
        self.bumps = torch.zeros(len(whole), max(whole), max(whole))
        for bump, side in zip(self.bumps, whole, strict=True):
            bump[:side, :side] = self.bump(side)
        self.bumps = self.bumps.to(lanes.image)
        self.tile = self.bump(max(least // 5, 1)).to(lanes.image)  # of the grid that runs start from

    def bump(self, side: int) -> Tensor:
        """(side, side) of norm 1: a hill in the upper half, its negative in the lower (the paper's eq. 2)."""
        steep = 4 // self.power  # 1/k² per ring in l2, 1/k⁴ in l1
        upper, lower = _hill(side // 2, side, steep), _hill(side - side // 2, side, steep)
        both = torch.cat((upper / max(self._length(upper), TINY), -lower / max(self._length(lower), TINY)))
        return both / self._length(both)

    def start(self, lanes: Lanes, rows: Tensor) -> Tensor:
        """A grid of bumps of random sign, a fifth of the shorter side each."""
        image = lanes.image[rows]
        channels, height, width = image.shape[1:]
        side = len(self.tile)
        down, across = height // side, width // side
        signs = signs_of(lanes.uniform(1 + channels * down * across, rows, stage=1))
        turned = torch.where(signs[:, 0].view(-1, 1, 1) > 0, self.tile, self.tile.T)
        tiles = signs[:, 1:].view(-1, channels, down, 1, across, 1) * turned.view(-1, 1, 1, side, 1, side)
        delta = torch.zeros_like(image)
        top, left = (height - down * side) // 2, (width - across * side) // 2
        delta[:, :, top : top + down * side, left : left + across * side] = tiles.flatten(4, 5).flatten(2, 3)
        return self._onto_sphere(image, delta, lanes.radius(rows))

    def move(self, lanes: Lanes, best: Tensor, halved: Tensor) -> Tensor:
        """The best point with the mass of two windows moved into one."""
        image, channels, power = lanes.image, lanes.image.shape[1], self.power
        draws, sides = lanes.uniform(5 + channels), self.sides[halved]
        rows, columns = window(draws[:, :2], sides, image)
        first = (rows & columns).unsqueeze(1)
        second_rows, second_columns = window(draws[:, 2:4], sides, image)
        both = first | (second_rows & second_columns).unsqueeze(1)
        delta, eps = best - image, spread(lanes.radius(), image)
        mass = delta.abs() ** power
        inside = torch.where(first, mass, 0.0).sum((2, 3), keepdim=True) ** (1 / power)
        spare = (eps**power - mass.sum((1, 2, 3), keepdim=True)).clamp(min=0) / channels
        budget = spare + torch.where(both, mass, 0.0).sum((2, 3), keepdim=True)
        signs = signs_of(draws[:, 5:]).view(-1, channels, 1, 1)
        shape = self._placed(rows, columns, halved, draws[:, 4] < 0.5) * signs + delta / (inside + TINY)
        shape = torch.where(first, shape, 0.0)
        length = (shape.abs() ** power).sum((2, 3), keepdim=True) ** (1 / power)
        if power == 1:  # the reference asks for more than there is, and leaves the choice to the projection
            budget = budget * channels
        bump = shape * (budget ** (1 / power) / (length + TINY))
        return self._onto_sphere(image, torch.where(first, bump, torch.where(both, 0.0, delta)), lanes.radius())

    def _placed(self, rows: Tensor, columns: Tensor, halved: Tensor, turned: Tensor) -> Tensor:
        """(S, 1, H, W): each lane's bump, in its window."""
        down = (rows.cumsum(1) - 1).clamp(0, self.bumps.shape[1] - 1)  # (S, H, 1) row of the bump at each image row
        right = (columns.cumsum(2) - 1).clamp(0, self.bumps.shape[1] - 1)  # (S, 1, W)
        turned = turned.view(-1, 1, 1)
        lane = halved.view(-1, 1, 1)
        placed = torch.where(turned, self.bumps[lane, right, down], self.bumps[lane, down, right])
        return placed.unsqueeze(1)

    def _onto_sphere(self, image: Tensor, delta: Tensor, eps: float | Tensor) -> Tensor:
        """l2: scaled to the radius and clamped; l1: the nearest point of ball and box."""
        if self.power == 2:
            return (image + spread(eps, image) * self.norm.ascent(delta)).clamp(0, 1)
        return self.norm.project(image + delta, image, eps * (1 - 1e-6))

    def _length(self, delta: Tensor) -> float:
        return float((delta.abs() ** self.power).sum() ** (1 / self.power))


def _hill(height: int, width: int, power: int) -> Tensor:
    """(height, width) around its middle: ring k holds Σ_{j ≥ k} (j + 1)^-power, up to the outermost ring."""
    y, x = torch.arange(height) - height // 2, torch.arange(width) - width // 2
    ring = torch.maximum(y.abs().view(-1, 1), x.abs().view(1, -1))
    rings = max(height, width) // 2 + 1
    heights = (torch.arange(1, rings + 1, dtype=torch.float64) ** -power).flip(0).cumsum(0).flip(0).float()
    return heights[ring]
