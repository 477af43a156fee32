"""The radius at which an attack on features succeeds, sample by sample, against the exact distance below it."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from regfast.checks import checked, number, one_of, whole
from regfast.representation.boundary import boundary_distance
from regfast.representation.feature_attack import feature_attack
from regfast.representation.span import CLASSIFIED


@checked(
    **CLASSIFIED,
    steps=whole(1),
    objective=one_of("cross-entropy", "margin"),
    largest=number(1, above=True),
    halvings=whole(1),
)
def fooling_radius(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    *,
    steps: int = 20,
    objective: Literal["cross-entropy", "margin"] = "cross-entropy",
    largest: float = 16.0,
    halvings: int = 10,
) -> Tensor:
    """l2 radius at which multi-step PGD on each feature fools the head, (B,) float64; 0 for one that is wrong already.

    No attack succeeds inside the exact distance to the nearest boundary (`boundary_distance`), so the radius is sought
    between that and `largest` times it, by bisection of its logarithm: every trial is one fused call of
    `feature_attack` over all samples, and the result a radius at which the attack did succeed, within a factor of
    ``largest ** 2**-halvings`` (0.3 % by default) of one at which it did not. inf where it fails even at the largest,
    or where no class can overtake. The result over the exact distance is what the attack's path costs it: 1 for a
    gradient that points at the nearest boundary, sqrt(2(K-1)/K) at a simplex ETF's weight vectors.

    Args:
        features: (B, d), weight: (K, d) with K >= 2, bias: (K,) or None, labels: (B,) int64.
        steps, objective: of the attack. largest: > 1, in exact distances. halvings: >= 1.

    Raises:
        ValueError: as `feature_attack`, largest <= 1 or halvings < 1. IndexError: a label out of range.
    """
    exact = boundary_distance(features, weight, bias, labels).distance
    wrong, reachable = exact == 0, torch.isfinite(exact)
    # A hair more than the distance: on a straight way out a whole number of steps would otherwise end on the boundary
    # itself, where rounding decides.
    base = torch.where(reachable, exact, 0) * (1 + 1e-6)

    def fooled(factor: Tensor) -> Tensor:
        result = feature_attack(features, weight, bias, labels, eps=base * factor, steps=steps, objective=objective)
        return result.success

    failed, succeeded = torch.ones_like(base), torch.full_like(base, largest)
    found = fooled(succeeded)
    for _ in range(halvings):
        middle = (failed * succeeded).sqrt()
        yes = fooled(middle)
        failed, succeeded = torch.where(yes, failed, middle), torch.where(yes, middle, succeeded)
    return torch.where(found & reachable, base * succeeded, torch.inf).masked_fill(wrong, 0)
