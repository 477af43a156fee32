"""FAB's move by the native extension."""

from __future__ import annotations

import torch
from torch import Tensor

from regfast.ops.native.arguments import split
from regfast.ops.reference import boundary as reference

_step = torch.ops.regfast.boundary_step.default


def boundary_step(
    point: Tensor, image: Tensor, rise: Tensor, slope: Tensor, across: Tensor, eta: float | Tensor, alpha_max: float,
    beta: float, norm: str,
) -> Tensor:  # fmt: skip
    """See `regfast.ops.boundary`. In l1 the entries have to be sorted, which PyTorch does."""
    if norm == "l1":
        return reference.boundary_step(point, image, rise, slope, across, eta, alpha_max, beta, norm)
    with torch.no_grad():
        moved: Tensor = _step(point, image, rise, slope, across, *split(eta), alpha_max, beta, norm == "linf")
    return moved
