"""Where a soft label's cross-entropy is least: the free minimizer in closed form, and with ridge by Newton's method."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from regfast.checks import checked, classes, floats, number, optional, whole
from regfast.representation.span import LINEAR_HEAD, centered, pseudoinverse, row_space

# Hessian entries held at once: bounds a chunk of rows to some 128 MB.
_CHUNK = 1 << 24


@checked(num_classes=whole(1, size="K"), smoothing=number(0, 1), labels=optional(classes("n", "K")))
def smoothed_targets(num_classes: int, smoothing: float, labels: Tensor | None = None) -> Tensor:
    """Rows (n, K) float64 of (1 - α) e_c + α/K for ``labels`` (n,), default every class once; α in [0, 1]."""
    rows = torch.eye(num_classes, dtype=torch.float64)
    rows = rows if labels is None else rows[labels]
    return (1 - smoothing) * rows + smoothing / num_classes


@checked(**LINEAR_HEAD, target=floats("n", "K"))
def free_minimizer(weight: Tensor, bias: Tensor | None, target: Tensor) -> Tensor:
    """Minimizer C⁺ center(log q - b) of the cross-entropy to q, C the centered weights; there the softmax equals q.

    Args:
        weight: (K, d) with centered rank K - 1 (so d >= K - 1); bias: (K,) or None.
        target: (n, K) probabilities, all > 0: a hard label has no finite minimizer.

    Returns:
        (n, d) float64, in the row space of C: the shortest of the minimizers.

    Raises:
        ValueError: a rank below K - 1 (no feature reaches every q: `soft_minimizer` then), a probability of 0.
    """
    _check_probabilities(target)
    inverse = full_rank_inverse(weight)
    q = target.to(inverse)
    if not bool((q > 0).all()):
        raise ValueError("target must be positive everywhere: a probability of 0 puts the minimizer at infinity")
    shifted = q.log() if bias is None else q.log() - bias.detach().to(q)
    return shifted @ inverse.T


def full_rank_inverse(weight: Tensor) -> Tensor:
    """C⁺ (d, K) float64 of the centered weights C; ValueError where C's rank is below K - 1."""
    inverse, rank = pseudoinverse(weight)
    if rank < len(weight) - 1:
        raise ValueError(f"the centered weight has rank {rank}, below K - 1 = {len(weight) - 1}: use soft_minimizer")
    return inverse


@checked(**LINEAR_HEAD, target=floats("n", "K"), ridge=number(0), max_iterations=whole(1))
def soft_minimizer(
    weight: Tensor, bias: Tensor | None, target: Tensor, *, ridge: float = 0.0, max_iterations: int = 200
) -> Tensor:
    """Minimizer of lse(Wv + b) - qᵀ(Wv + b) + ridge/2·‖v‖² for every row q, by damped Newton in the row space.

    Args:
        weight: (K, d), bias: (K,) or None.
        target: (n, K) probabilities.
        ridge: >= 0; above 0 unless every probability is positive.
        max_iterations: a RuntimeWarning says when the gradient did not reach 1e-9 of max(1, the largest weight norm).

    Returns:
        (n, d) float64, the shortest minimizer of each row.

    Raises:
        ValueError: shapes that do not fit, rows that are no probabilities, ridge < 0, or 0 with a probability of 0.
    """
    _check_probabilities(target)
    q = target.to(weight.device, torch.float64)
    if ridge == 0 and not bool((q > 0).all()):
        raise ValueError("with ridge 0 target must be positive everywhere: a probability of 0 has no finite minimizer")
    basis = row_space(weight)
    if not len(basis):
        raise ValueError("weight must have rows that differ: all classes have the same one")
    rows = centered(weight) @ basis.T
    offset = torch.zeros(len(rows)).to(rows) if bias is None else bias.detach().to(rows)
    step = max(1, _CHUNK // max(1, basis.shape[0] * len(rows)))
    return torch.cat([_newton(rows, offset, part, ridge, max_iterations) for part in q.split(step)]) @ basis


def _newton(rows: Tensor, bias: Tensor, q: Tensor, ridge: float, limit: int) -> Tensor:
    def loss(v: Tensor) -> Tensor:
        z = v @ rows.T + bias
        return torch.logsumexp(z, 1) - (q * z).sum(1) + ridge / 2 * (v * v).sum(1)

    v = torch.zeros(len(q), rows.shape[1]).to(rows)
    identity = torch.eye(rows.shape[1]).to(rows)
    scale = max(1.0, float(rows.norm(dim=1).max()))
    value = loss(v)
    for _ in range(limit):
        logits = v @ rows.T + bias
        # The loss is a difference of logits: it is known no better than they are.
        rounding = 4e-15 * (1 + logits.abs().amax(1))
        p = torch.softmax(logits, 1)
        slope = (p - q) @ rows + ridge * v
        center = p @ rows
        hessian = rows.T @ (p[:, :, None] * rows) - center[:, :, None] * center[:, None, :] + ridge * identity
        # A floor far below the curvature that matters keeps a saturated softmax solvable.
        floor = 1e-14 * hessian.diagonal(dim1=1, dim2=2).amax(1).clamp(min=1e-280)
        move = -torch.linalg.solve(hessian + floor[:, None, None] * identity, slope)
        size = torch.ones(len(q), 1).to(rows)
        descent = (slope * move).sum(1)
        if float(-descent.min()) <= 1e-16:
            # Convergence is quadratic here: one full step more is as good as rounding allows.
            v = v + move
            break
        for _ in range(60):
            tried = loss(v + size * move)
            bad = tried > value + 1e-4 * size[:, 0] * descent + rounding
            if not bool(bad.any()):
                break
            size = torch.where(bad[:, None], size / 2, size)
        v, value = v + size * move, tried
    worst = float(((torch.softmax(v @ rows.T + bias, 1) - q) @ rows + ridge * v).norm(dim=1).max())
    if worst > 1e-9 * scale:
        warnings.warn(
            f"soft minimizer: gradient {worst:.3g} left after {limit} Newton steps", RuntimeWarning, stacklevel=3
        )
    return v


def _check_probabilities(target: Tensor) -> None:
    total = target.double().sum(1)
    if not bool((target >= 0).all()) or not bool(((total - 1).abs() < 1e-4).all()):
        raise ValueError("target must hold probabilities: at least 0, and rows that sum to 1")
