"""Linear layer and soft-label cross-entropy in one, without the (B, K) logits in memory."""

from __future__ import annotations

from torch import Tensor

from regfast.ops.dispatch import find
from regfast.ops.target import Target

__all__ = ["linear_soft_cross_entropy"]


def linear_soft_cross_entropy(
    features: Tensor, linear_weight: Tensor, linear_bias: Tensor | None, target: Target
) -> Tensor:
    """`soft_cross_entropy(features @ linear_weight.T + linear_bias, …)`, exact, in tiles.

    Differentiable in `features`, `linear_weight` and `linear_bias`. Mixed targets cost no more than hard ones.

    Args:
        features: (B, d) floating.
        linear_weight: (K, d) of the same dtype.
        linear_bias: (K,) of the same dtype, or None.
        target: see `Target`.

    Returns:
        0-d or (B,); float32, float64 for float64 features. Gradients have the dtypes of their inputs.
    """
    run = find("linear_soft_cross_entropy", "linear_soft_cross_entropy", features, target.constants)
    return run(features, linear_weight, linear_bias, target)
