"""How a class center's direction depends on the radius: from the gradient at the origin to the max-margin direction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor

from regfast.checks import checked, number, several
from regfast.representation.centers import class_centers
from regfast.representation.span import LINEAR_HEAD, centered


class RadiusSensitivity(NamedTuple):
    """Angles in radians between v_opt's direction at a radius and its r → 0 direction, float64; NaN where none."""

    radius: Tensor  # (R,)
    angle: Tensor  # (R, K)
    angle_limit: Tensor  # (K,) of the r → ∞ direction; NaN where it was not asked for
    points: Tensor  # (R, K, d) the centers themselves


@checked(**LINEAR_HEAD, radii=several(number(0, above=True)))
def radius_sensitivity(
    weight: Tensor, bias: Tensor | None, radii: Sequence[float], *, limit: bool = True
) -> RadiusSensitivity:
    """Angle of v_opt(c, r) to its r → 0 direction for every radius and class, with the r → ∞ limit.

    Args:
        weight: (K, d), K >= 2; bias: (K,) or None; radii: any number, each > 0.
        limit: find the r → ∞ direction too: seconds for 100 classes, hours for 1,000.

    Raises:
        ValueError: no radii, or what `class_centers` rejects.
    """
    start = small_radius_direction(weight, bias)
    points = torch.stack([class_centers(weight, bias, radius=radius).points for radius in radii])
    return RadiusSensitivity(
        torch.tensor([float(radius) for radius in radii], dtype=torch.float64),
        torch.stack([angle(part, start) for part in points]),
        angle(max_margin_direction(weight), start) if limit else torch.full_like(start[:, 0], torch.nan),
        points,
    )


@checked(**LINEAR_HEAD)
def small_radius_direction(weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Unit direction of v_opt as r → 0, (K, d) float64: w_c - Σ softmax(b)_k w_k; NaN where that is 0."""
    head = centered(weight)
    share = torch.softmax(torch.zeros(len(head)).to(head) if bias is None else bias.detach().to(head), 0)
    return _unit(head - share @ head)


@checked(weight=LINEAR_HEAD["weight"])
def max_margin_direction(weight: Tensor) -> Tensor:
    """Unit direction of v_opt as r → ∞, whatever the bias, (K, d) float64: the shortest point of the hull of w_c - w_j.

    NaN where the hull holds the origin (w_c inside the hull of the others): such a class keeps a finite minimizer.
    Exact, by an active-set solver: with E the rows w_c - w_j, the u >= 0 that minimizes ‖Eᵀu‖² + (Σu - 1)² is a
    multiple of the shortest point's weights (Lawson & Hanson 1974, ch. 23). One non-negative least squares a class:
    seconds for 100 classes.
    """
    head = centered(weight)
    basis = None
    if head.shape[1] > len(head):
        basis, triangle = torch.linalg.qr(head.T)
        head = triangle.T
    rows = head.cpu().numpy()
    # Edges of length about 1 keep the two squares of the objective alike.
    scale = max(float(np.linalg.norm(rows, axis=1).max()), np.finfo(np.float64).tiny)
    directions = np.full(rows.shape, np.nan)
    for label in range(len(rows)):
        edges = np.delete((rows[label] - rows) / scale, label, axis=0)
        share, _ = nnls(np.vstack([edges.T, np.ones(len(edges))]), np.append(np.zeros(rows.shape[1]), 1.0))
        point = share @ edges / share.sum()
        length = float(np.linalg.norm(point))
        # The shortest point has ⟨point, edge⟩ >= ‖point‖² for every edge; below 1e-12 it is the origin, up to rounding.
        if length > 1e-12:
            directions[label] = point / length
    result = torch.from_numpy(directions).to(weight.device)
    return result if basis is None else result @ basis.T


def angle(first: Tensor, second: Tensor) -> Tensor:
    """Row-wise angle of (B, d) tensors in radians, accurate near 0 and π (Kahan 2006); NaN for a row of length 0."""
    one, other = _unit(first), _unit(second)
    return 2 * torch.atan2((one - other).norm(dim=1), (one + other).norm(dim=1))


def _unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=1, keepdim=True)
