"""FAB's move (`regfast.ops.boundary`) and the nearest point of a hyperplane in the box [0, 1] (arXiv 1907.02044, 3.1).

Moving towards the plane every entry goes the way of its weight's sign, and stops at the box: it has `room_i`. Which
entries move how far depends on the norm; the rise of `⟨w, z⟩` has to make up what is missing. Where the plane does not
meet the box, the corner nearest to it (the point where all room is used) is what comes back.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["boundary_step", "to_plane"]

ROUNDS = 16  # Newton steps; each lands on the right linear piece or left of it, images need 3 to 8
TINY = 1e-30
SHORTEST = 1e-8  # of a move, so that two of length 0 are mixed by halves


def boundary_step(
    point: Tensor, image: Tensor, rise: Tensor, slope: Tensor, across: Tensor, eta: float | Tensor, alpha_max: float,
    beta: float, norm: str,
) -> Tensor:  # fmt: skip
    """See `regfast.ops.boundary`."""
    asked, clean, slope = point.flatten(1), image.flatten(1), slope.flatten(1)
    begin = torch.where(across.unsqueeze(1), clean + beta * (asked - clean), asked)
    # The plane ⟨slope, z⟩ = ⟨slope, asked⟩ - rise, seen from both.
    both = torch.cat((begin, clean))
    missing = -rise - torch.stack(((slope * (begin - asked)).sum(1), (slope * (clean - asked)).sum(1)))
    move = to_plane(norm, both, torch.cat((slope, slope)), missing.flatten().nan_to_num(0, torch.inf, -torch.inf))
    near, far = _LENGTHS[norm](move).clamp(min=SHORTEST).chunk(2)
    alpha = (near / (near + far)).clamp(max=alpha_max).unsqueeze(1)
    over = eta.unsqueeze(1) if isinstance(eta, Tensor) else eta
    here, there = move.chunk(2)
    drawn = (1 - alpha) * (begin + over * here) + alpha * (clean + over * there)
    return drawn.clamp(0, 1).view_as(image)


def to_plane(norm: str, point: Tensor, weight: Tensor, missing: Tensor) -> Tensor:
    """The shortest move `d` (S, D), in `norm`, with `⟨weight, d⟩ = missing` and point + d in [0, 1].

    Args:
        norm: "linf", "l2" or "l1".
        point: (S, D) in [0, 1].
        weight: (S, D) normal of the plane.
        missing: (S,) how much `⟨weight, point⟩` has to rise (fall, if negative) to reach the plane.
    """
    weight = weight * missing.sign().unsqueeze(1)
    room = torch.where(weight > 0, 1 - point, point)
    return weight.sign() * _MOVES[norm](weight.abs(), room, missing.abs())


def _linf(slope: Tensor, room: Tensor, missing: Tensor) -> Tensor:
    """Everything by the same λ, as far as there is room."""
    return room.minimum(_level(slope, room, missing))


def _l2(weight: Tensor, room: Tensor, missing: Tensor) -> Tensor:
    """Everything by λ |w_i|, as far as there is room."""
    weight, missing = _near_one(weight, room, missing)
    level = _level(weight * weight, room / weight.clamp(min=TINY), missing)
    return room.minimum(level * weight)


def _l1(weight: Tensor, room: Tensor, missing: Tensor) -> Tensor:
    """The entries of largest |w_i| first, each with all of its room; the last one in part."""
    weight, missing = _near_one(weight, room, missing)
    heavy, order = weight.sort(dim=1, descending=True, stable=True)
    rise = heavy * room.gather(1, order)
    before = rise.cumsum(1) - rise
    part = (missing.unsqueeze(1) - before).clamp(min=0).minimum(rise) / heavy.clamp(min=torch.finfo(heavy.dtype).tiny)
    return torch.zeros_like(room).scatter_(1, order, part)


def _near_one(weight: Tensor, room: Tensor, missing: Tensor) -> tuple[Tensor, Tensor]:
    """The same plane, 0 where there is no room, its largest weight 1: squares of small ones would be 0 in float32."""
    weight = torch.where(room > 0, weight, 0.0)
    largest = weight.amax(1).clamp(min=torch.finfo(weight.dtype).tiny)
    return weight / largest.unsqueeze(1), missing / largest


def _level(slope: Tensor, stop: Tensor, missing: Tensor) -> Tensor:
    """λ (S, 1) with `Σ slope_i · min(λ, stop_i) = missing`; no limit where all stops together fall short.

    The sum is concave and piecewise linear in λ: solving the piece that λ lies on never overshoots.
    """
    level = (missing / slope.sum(1)).unsqueeze(1)
    for _ in range(ROUNDS):
        short = missing - _dot(slope, stop.minimum(level))
        ahead = short / _dot(slope, (stop > level).to(slope.dtype))
        # A row that has arrived stays: it must not depend on how long the others take.
        ahead = torch.where(ahead > 1e-6 * level.squeeze(1), ahead, 0.0)
        level = level + ahead.unsqueeze(1)
        if level.is_cpu and not ahead.any():
            break
    return torch.where(_dot(slope, stop).unsqueeze(1) > missing.unsqueeze(1), level, 1 / TINY)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return torch.bmm(a.unsqueeze(1), b.unsqueeze(2)).view(-1)


_MOVES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {"linf": _linf, "l2": _l2, "l1": _l1}

_LENGTHS: dict[str, Callable[[Tensor], Tensor]] = {
    "linf": lambda move: move.abs().amax(1),
    "l2": lambda move: torch.linalg.vector_norm(move, dim=1),
    "l1": lambda move: move.abs().sum(1),
}
