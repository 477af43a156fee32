"""Linear layer and soft-label cross-entropy in one by the native extension."""

from __future__ import annotations

import torch
from torch import Tensor

from regfast.ops.native.arguments import REDUCTIONS, code, split

_loss = torch.ops.regfast.linear_soft_cross_entropy.default


def linear_soft_cross_entropy(
    features: Tensor,
    linear_weight: Tensor,
    linear_bias: Tensor | None,
    first: Tensor | None,
    second: Tensor | None,
    weight: float | Tensor,
    dense: Tensor | None,
    *,
    smoothing: float | Tensor,
    class_weight: Tensor | None,
    sample_weight: Tensor | None,
    ignore_index: int,
    reduction: str,
    index_target: bool,
) -> Tensor:
    """See `regfast.ops.linear_soft_cross_entropy.linear_soft_cross_entropy`."""
    return _loss(
        features,
        linear_weight,
        linear_bias,
        first,
        second,
        *split(weight),
        dense,
        *split(smoothing),
        class_weight,
        sample_weight,
        ignore_index,
        code(REDUCTIONS, "reduction", reduction),
        index_target,
    )
