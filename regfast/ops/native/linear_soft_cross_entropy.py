"""Linear layer and soft-label cross-entropy in one by the native extension."""

from __future__ import annotations

import torch
from torch import Tensor

from regfast.ops.native.arguments import parts
from regfast.ops.target import Target

_loss = torch.ops.regfast.linear_soft_cross_entropy.default


def linear_soft_cross_entropy(
    features: Tensor, linear_weight: Tensor, linear_bias: Tensor | None, target: Target
) -> Tensor:
    """See `regfast.ops.linear_soft_cross_entropy.linear_soft_cross_entropy`."""
    return _loss(features, linear_weight, linear_bias, *parts(target))
