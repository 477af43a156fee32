"""Projected gradient descent on features through a linear head, by the native extension."""

from __future__ import annotations

import torch
from torch import Tensor

_attack = torch.ops.regfast.feature_attack.default


def feature_attack(
    logits: Tensor,
    rows: Tensor,
    labels: Tensor,
    eps: Tensor,
    step_size: Tensor,
    steps: int,
    *,
    linf: bool,
    margin: bool,
) -> Tensor:
    """See `regfast.ops.feature_attack.feature_attack`."""
    with torch.no_grad():
        moved: Tensor = _attack(logits, rows, labels, eps, step_size, steps, linf, margin)
    return moved
