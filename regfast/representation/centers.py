"""Class centers v_opt(c, r): the feature of norm at most r with the least cross-entropy for class c.

Minimized is F(v) = lse_{j≠c} z_j - z_c in place of the cross-entropy softplus(F): the same minimizer, but the
cross-entropy and its gradient underflow to 0 while F stays informative. See docs/mathematics.md for the derivations.
"""

from __future__ import annotations

import math
import warnings
from typing import Any, NamedTuple

import torch
from torch import Tensor

from regfast.checks import Kind, Sizes, checked, number, whole
from regfast.representation.span import LINEAR_HEAD, centered


class ClassCenters(NamedTuple):
    """Minimal-loss points of every class in the ball of one radius."""

    points: Tensor  # (K, d) float64, each of norm at most radius
    radius: float
    gap: Tensor  # (K,) float64: certified upper bound of objective - (its minimum)
    objective: Tensor  # (K,) float64: F at the point; the cross-entropy is softplus(F)


def of_centers(kind: Kind) -> Kind:
    """`ClassCenters` as they are, or their points, which are of `kind`."""

    def check(name: str, value: Any, sizes: Sizes) -> Any:
        kind(name, value.points if isinstance(value, ClassCenters) else value, sizes)
        return value

    return check


@checked(
    **LINEAR_HEAD,
    radius=number(0, above=True),
    tolerance=number(0, above=True),
    max_iterations=whole(1),
)
def class_centers(
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    radius: float,
    tolerance: float = 1e-7,
    max_iterations: int = 20_000,
) -> ClassCenters:
    """Class centers of a linear head by accelerated projected gradient with restart, in float64.

    Args:
        weight: (K, d) floating, K >= 2.
        bias: (K,) floating or None.
        radius: of the ball, > 0, in the features' units; `default_radius` gives the usual one.
        tolerance: stop when the certificate ``F(v) - F* <= gap`` of every class is at most
            ``tolerance · min(1, radius · max‖w_j - mean w‖)`` nats (relative in small balls, absolute in large ones),
            or where rounding allows no less.
        max_iterations: a RuntimeWarning says when the certificate was not reached; ``gap`` is right in any case.

    Returns:
        `ClassCenters` on the weight's device. Points lie in the row space of the centered weights; where a minimizer is
        not unique (equal weights), the one found has the component outside it equal to 0.

    Raises:
        ValueError: K < 2, shapes that do not fit, NaN or infinite weights, radius or tolerance not positive and finite.

    >>> centers = class_centers(torch.eye(3), radius=1.0)
    >>> centers.points[0]
    tensor([ 0.8165, -0.4082, -0.4082], dtype=torch.float64)
    """
    rows = centered(weight)
    basis = None
    if rows.shape[1] > rows.shape[0]:
        # F sees a feature only through its component in the row space: solve there, exactly, in K dimensions for d.
        basis, triangle = torch.linalg.qr(rows.T)
        rows = triangle.T.contiguous()
    offset = torch.zeros(len(rows)).to(rows) if bias is None else bias.detach().to(rows)
    points, gap, objective = _minimize(rows, offset, float(radius), tolerance, max_iterations)
    return ClassCenters(points if basis is None else points @ basis.T, float(radius), gap, objective)


# Logits held at once (classes in work × classes): bounds the memory at some 128 MB a matrix for any number of classes.
_CHUNK = 1 << 24


def _minimize(rows: Tensor, bias: Tensor, radius: float, tolerance: float, limit: int) -> tuple[Tensor, Tensor, Tensor]:
    """Points (K, d), gap (K,) and objective (K,) for centered rows (K, d)."""
    spread = float(rows.norm(dim=1).max())
    scale = radius * spread + float(bias.abs().max())
    rounding = 64 * torch.finfo(torch.float64).eps * scale
    goal = max(tolerance * min(1.0, radius * spread), rounding)
    step = max(1, _CHUNK // len(rows))
    parts = []
    for chunk in torch.arange(len(rows), device=rows.device).split(step):
        parts.append(_solve(rows, bias, chunk, radius, goal, rounding, limit))
    points, gap, objective = (torch.cat(column) for column in zip(*parts, strict=True))
    worst = float(gap.max())
    if worst > goal:
        warnings.warn(
            f"class centers: certificate {worst:.3g} above {goal:.3g} after {limit} iterations at radius {radius:g}; "
            "see ClassCenters.gap",
            RuntimeWarning,
            stacklevel=3,
        )
    return points, gap, objective


def _solve(
    rows: Tensor, bias: Tensor, classes: Tensor, radius: float, tolerance: float, rounding: float, limit: int
) -> tuple[Tensor, Tensor, Tensor]:
    """FISTA (Beck & Teboulle 2009) with a step size per class and gradient restart (O'Donoghue & Candès 2015).

    lse's curvature is at most lip = max‖w_j - w_k‖²/4, but at most points far less: each class backtracks from the
    curvature it meets. Logits are linear in the point, so those of an extrapolated point are extrapolated: two matrix
    products a step. Warm starts in growing radius were measured and save nothing.
    """
    lip = max(float((rows * rows).sum(dim=1).max()), torch.finfo(torch.float64).tiny)  # at least max‖w_j - w_k‖²/4
    shape = (len(classes), rows.shape[1])
    result = torch.zeros(shape).to(rows), torch.full(shape[:1], math.inf).to(rows), torch.zeros(shape[:1]).to(rows)
    slot = torch.arange(len(classes), device=rows.device)
    x = previous = torch.zeros(shape).to(rows)
    z = z_previous = bias.expand(len(classes), -1).clone()
    momentum = torch.ones(len(classes), 1).to(rows)
    lower = torch.full(shape[:1], -math.inf).to(rows)
    objective, share = _objective(z, classes)
    slope = share @ rows - rows[classes]
    along = slope @ rows.T
    variance = (share * (along - (share * along).sum(dim=1, keepdim=True)) ** 2).sum(dim=1)
    curvature = (variance / (slope * slope).sum(dim=1)).nan_to_num(lip).clamp(1e-9 * lip, lip)[:, None]
    for _ in range(limit):
        following = (1 + (1 + 4 * momentum * momentum).sqrt()) / 2
        push = (momentum - 1) / following
        y, z_y = x + push * (x - previous), z + push * (z - z_previous)
        at_y, share = _objective(z_y, classes)
        slope = share @ rows - rows[classes]
        # Convexity: F(u) >= F(y) + slope·(u - y) for every u, and slope·u >= -radius·‖slope‖ in the ball.
        lower = torch.maximum(lower, at_y - (slope * y).sum(dim=1) - radius * slope.norm(dim=1))
        new = y - slope / curvature
        new = new * (radius / new.norm(dim=1, keepdim=True)).clamp(max=1)
        z_new = torch.addmm(bias, new, rows.T)
        at_new, _ = _objective(z_new, classes)
        moved = new - y
        bound = at_y + (slope * moved).sum(dim=1) + curvature[:, 0] / 2 * (moved * moved).sum(dim=1)
        fine = (at_new <= bound + rounding) | (curvature[:, 0] >= lip)
        restart = fine & ((moved * (new - x)).sum(dim=1) < 0)
        keep = fine[:, None]
        previous, z_previous = torch.where(keep, x, previous), torch.where(keep, z, z_previous)
        x, z, objective = torch.where(keep, new, x), torch.where(keep, z_new, z), torch.where(fine, at_new, objective)
        momentum = torch.where(keep, following, momentum).masked_fill(restart[:, None], 1)
        curvature = torch.where(keep, curvature * 0.95, curvature * 2).clamp(1e-9 * lip, lip)
        gap = (objective - lower).clamp(min=0)
        done = gap <= tolerance
        # Leaving costs a copy of what stays: worth it for a tenth of the classes at a time.
        if 10 * int(done.sum()) >= len(done):
            for whole, part in zip(result, (x, gap, objective), strict=True):
                whole[slot[done]] = part[done]
            state = (slot, classes, x, previous, z, z_previous, momentum, curvature, lower, objective, gap)
            slot, classes, x, previous, z, z_previous, momentum, curvature, lower, objective, gap = (
                tensor[~done] for tensor in state
            )
            if not len(slot):
                break
    else:
        for whole, part in zip(result, (x, gap, objective), strict=True):
            whole[slot] = part
    return result


def _objective(logits: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """F = lse_{j≠c} z_j - z_c per row (n,) and the softmax over j≠c (n, K), for logits (n, K)."""
    own = logits.gather(1, classes[:, None])
    others = logits.scatter(1, classes[:, None], -math.inf)
    lse = torch.logsumexp(others, dim=1, keepdim=True)
    return (lse - own)[:, 0], others.sub_(lse).exp_()
