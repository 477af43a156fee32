"""Robust accuracy over eps from one search for nearest adversarial points (FMN, DDN, or FAB with eps=None)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from regfast.attacks.result import AttackResult


def robust_accuracy_curve(result: AttackResult, eps: Sequence[float] | Tensor) -> Tensor:
    """Share of all samples that are right and have no adversarial point found within each radius.

    Args:
        result: of an attack that looked for the nearest adversarial point (`eps=None`). After an attack at one eps the
            curve would say nothing beyond that eps, and too much below it.
        eps: (E,) radii ≥ 0, in the attack's norm.

    Returns:
        (E,) float64 on the result's device, never rising in eps; at 0 the clean accuracy.

    Raises:
        ValueError: for no samples, or a radius that is negative or NaN.

    >>> nearest = FAB("l2", eps=None, steps=5).run(model, images, labels)
    >>> robust_accuracy_curve(nearest, [0.0, 0.25, 0.5]).shape
    torch.Size([3])
    """
    radii = torch.as_tensor(eps, dtype=torch.float64, device=result.distance.device)
    if radii.ndim != 1 or not bool((radii >= 0).all()):
        raise ValueError(f"eps must be a sequence of radii ≥ 0, got {eps!r}")
    if len(result.clean) == 0:
        raise ValueError("result holds no samples")
    nearest = torch.where(result.success, result.distance.double(), torch.inf)
    # A found point at distance 0 would be the clean image itself: what is right there is right at radius 0.
    right = result.clean & ((nearest > radii.unsqueeze(1)) | (radii.unsqueeze(1) == 0))
    return right.double().mean(1)
