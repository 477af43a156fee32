"""Linear layer and soft-label cross-entropy in one, without the (B, K) logits in memory."""

from __future__ import annotations

from torch import Tensor

from regfast.ops.dispatch import find
from regfast.ops.soft_cross_entropy import Reduction

__all__ = ["linear_soft_cross_entropy"]


def linear_soft_cross_entropy(
    features: Tensor,
    linear_weight: Tensor,
    linear_bias: Tensor | None = None,
    first: Tensor | None = None,
    second: Tensor | None = None,
    weight: float | Tensor = 1.0,
    dense: Tensor | None = None,
    *,
    smoothing: float | Tensor = 0.0,
    class_weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    index_target: bool = False,
) -> Tensor:
    """`soft_cross_entropy(features @ linear_weight.T + linear_bias, …)`, exact, in tiles.

    Differentiable in `features`, `linear_weight` and `linear_bias`. Mixed targets cost no more than hard ones.

    Args (the others as in `soft_cross_entropy`):
        features: (B, d) floating.
        linear_weight: (K, d) of the same dtype.
        linear_bias: (K,) of the same dtype, or None.

    Returns:
        0-d or (B,); float32, float64 for float64 features. Gradients have the dtypes of their inputs.
    """
    constants = (dense, weight, smoothing, sample_weight)
    run = find("linear_soft_cross_entropy", "linear_soft_cross_entropy", features, constants)
    return run(
        features,
        linear_weight,
        linear_bias,
        first,
        second,
        weight,
        dense,
        smoothing=smoothing,
        class_weight=class_weight,
        sample_weight=sample_weight,
        ignore_index=ignore_index,
        reduction=reduction,
        index_target=index_target,
    )
