"""Exact distances in feature space to a linear head's decision boundary: the shortest, and along the gradient."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from regfast.checks import checked
from regfast.representation.span import CLASSIFIED


class BoundaryDistance(NamedTuple):
    """Distances per sample, all (B,); 0 where the sample is misclassified already. float64, rivals int64."""

    distance: Tensor  # to the nearest point of the decision boundary; inf where no class can overtake
    rival: Tensor  # class on the other side of that point
    gradient_distance: Tensor  # to the boundary along the cross-entropy gradient; inf where that direction meets none
    gradient_rival: Tensor
    cosine: Tensor  # between the gradient and the shortest way out: distance / gradient_distance where the rivals agree


@checked(**CLASSIFIED)
def boundary_distance(features: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor) -> BoundaryDistance:
    """Distance of each feature to where the head stops predicting its label.

    A linear head's region is an intersection of half spaces, so the nearest point is on the nearest hyperplane:
    min_j (z_y - z_j)/‖w_y - w_j‖ (Moosavi-Dezfooli et al. 2016, eq. 6). Along a unit direction u, the boundary to j is
    at (z_y - z_j)/((w_j - w_y)·u). u is the direction of the cross-entropy's gradient, taken from lse_{j≠y} z_j - z_y,
    which has the same direction and does not underflow. What the gradient's way is longer than the shortest one is
    robustness to gradient attacks that an exact attack would not see.

    Args:
        features: (B, d), weight: (K, d) with K >= 2, bias: (K,) or None, labels: (B,) int64.

    Raises:
        ValueError: shapes that do not fit. IndexError: a label outside 0 … K-1.
    """
    v, head, offset = in_float64(features, weight, bias)
    logits = v @ head.T + offset
    own = logits.gather(1, labels[:, None])
    gap = own - logits
    apart = torch.cdist(head, head, compute_mode="donot_use_mm_for_euclid_dist")[labels]
    here = torch.zeros_like(gap, dtype=torch.bool).scatter_(1, labels[:, None], True)
    distance, rival = _nearest(gap / apart, here | (apart == 0))
    others = logits.masked_fill(here, -torch.inf)
    slope = torch.softmax(others, 1) @ head - head[labels]
    direction = slope / slope.norm(dim=1, keepdim=True)
    along = direction @ head.T
    speed = along - along.gather(1, labels[:, None])
    gradient_distance, gradient_rival = _nearest(gap / speed, here | ~(speed > 0))
    way = head[rival] - head[labels]
    cosine = (direction * way).sum(1) / way.norm(dim=1)
    wrong = others.amax(1) >= own[:, 0]
    return BoundaryDistance(
        distance.masked_fill(wrong, 0), rival, gradient_distance.masked_fill(wrong, 0), gradient_rival, cosine
    )


def _nearest(distances: Tensor, excluded: Tensor) -> tuple[Tensor, Tensor]:
    least, index = distances.masked_fill(excluded, torch.inf).min(dim=1)
    return least.clamp(min=0), index


def in_float64(features: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Features, weight and bias (zeros for None) as constants on the features' device."""
    v = features.detach().double()
    return v, weight.detach().to(v), v.new_zeros(len(weight)) if bias is None else bias.detach().to(v)
