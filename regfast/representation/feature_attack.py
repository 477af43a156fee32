"""Projected gradient descent on features through a linear head: the whole loop is one fused call."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from regfast.checks import checked, one_of, optional, per_sample, whole
from regfast.ops import feature_attack as fused
from regfast.representation.boundary import in_float64
from regfast.representation.span import CLASSIFIED


class FeatureAttack(NamedTuple):
    """Attacked features and what became of them."""

    features: Tensor  # (B, d) float64, within eps of the clean ones: the first that fools the head, else the last
    success: Tensor  # (B,) bool: was right, now wrong
    robust: Tensor  # (B,) bool: still right


@checked(
    **CLASSIFIED,
    eps=per_sample("B", 0),
    steps=whole(1),
    step_size=optional(per_sample("B", 0)),
    norm=one_of("l2", "linf"),
    objective=one_of("cross-entropy", "margin"),
)
def feature_attack(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    *,
    eps: float | Tensor,
    steps: int = 20,
    step_size: float | Tensor | None = None,
    norm: Literal["l2", "linf"] = "l2",
    objective: Literal["cross-entropy", "margin"] = "cross-entropy",
) -> FeatureAttack:
    """Multi-step PGD (Madry et al. 2018) on features under a linear head, in float64.

    The gradient is a product with the head, so nothing is differentiated. Under l2 every step stays in the row space
    of the centered head: the loop then runs in at most K dimensions however many the features have. Nothing waits for
    the host inside the loop.

    Args:
        features: (B, d), weight: (K, d) with K >= 2, bias: (K,) or None, labels: (B,) int64.
        eps: >= 0, radius of the ball, a number or (B,).
        steps: >= 1.
        step_size: number or (B,); default 2.5·eps/steps.
        norm: ``"l2"`` or ``"linf"``.
        objective: ``"cross-entropy"`` climbs lse_{j≠y} z_j - z_y, whose direction is the cross-entropy's and does not
            underflow; ``"margin"`` climbs max_{j≠y} z_j - z_y.

    Raises:
        ValueError: shapes that do not fit, eps < 0, steps < 1, an unknown norm or objective. IndexError: a label out
            of range.
    """
    v, head, offset = in_float64(features, weight, bias)
    radius = torch.as_tensor(eps, dtype=v.dtype, device=v.device).expand(len(v))
    size = 2.5 * radius / steps
    if step_size is not None:
        size = torch.as_tensor(step_size, dtype=v.dtype, device=v.device).expand(len(v))
    rows = head - head.mean(dim=0)
    basis = None
    if norm == "l2" and rows.shape[1] > len(rows):
        basis, triangle = torch.linalg.qr(rows.T)
        rows = triangle.T.contiguous()
    clean = v @ head.T + offset
    delta = fused.feature_attack(
        clean, rows, labels, radius, size, steps, linf=norm == "linf", margin=objective == "margin"
    )
    attacked = v + (delta if basis is None else delta @ basis.T)
    # Judged on the features themselves: a success that rounding takes back on the way is none.
    right, still = _right(clean, labels), _right(attacked @ head.T + offset, labels)
    return FeatureAttack(attacked, right & ~still, right & still)


def _right(logits: Tensor, labels: Tensor) -> Tensor:
    """Where the label's logit is above all others, (B,) bool: an equal one counts as lost."""
    others = logits.scatter(1, labels[:, None], -math.inf).amax(1)
    return logits.gather(1, labels[:, None])[:, 0] > others
