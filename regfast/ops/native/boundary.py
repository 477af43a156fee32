"""FAB's move by the native extension."""

from __future__ import annotations

import torch
from torch import Tensor

from regfast.ops.native.arguments import NORMS, code, split

_step = torch.ops.regfast.boundary_step.default


def boundary_step(
    point: Tensor, image: Tensor, rise: Tensor, slope: Tensor, across: Tensor, eta: float | Tensor, alpha_max: float,
    beta: float, norm: str,
) -> Tensor:  # fmt: skip
    """See `regfast.ops.boundary`."""
    with torch.no_grad():
        moved: Tensor = _step(
            point, image, rise, slope, across, *split(eta), alpha_max, beta, code(NORMS, "norm", norm)
        )
    return moved
