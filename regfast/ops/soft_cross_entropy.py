"""Soft-label cross-entropy, with and without per-sample statistics.

Per row, with `m = max z`, `S = Σ exp(z - m)`, `Q = Σ q`, `dot = Σ q (z - m)`: loss `= Q log S - dot`, gradient
`= Q p - q`. Shifted form, sums and the subtraction in float32 (float64 for float64), rounded once at the store.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from regfast.ops.dispatch import find

__all__ = ["Backward", "Reduction", "SampleStats", "soft_cross_entropy", "soft_cross_entropy_stats"]

Reduction = Literal["none", "mean", "sum"]
Backward = Literal["auto", "store", "recompute"]


class SampleStats(NamedTuple):
    """Per-sample statistics: (B,) float32 (float64 for float64 logits), `prediction` int64.

    Constants for autograd, but for the last three on request. The last three are NaN without features, the last two
    without centers.
    """

    loss: Tensor
    """The row's loss as `reduction="none"` gives it: with class and sample weights, 0 where ignored."""
    log_partition: Tensor
    """`log Σ exp z`."""
    confidence: Tensor
    """Largest softmax probability."""
    prediction: Tensor
    """Lowest index among the largest logits."""
    entropy: Tensor
    """Of the softmax, in nats."""
    margin: Tensor
    """`z_true - max_{j≠true} z_j`; inf for K = 1, NaN where ignored. The true class of a mixed target is `second`
    where λ < 1/2, else `first`; of a dense one its largest entry, the lowest index on a tie."""
    rms: Tensor
    """`‖v‖ / sqrt(d)`."""
    cosine: Tensor
    """Of the feature to the center of the true class; 0 where a norm is 0, NaN where ignored."""
    cosine_predicted: Tensor
    """Of the feature to the center of the predicted class; 0 where a norm is 0."""


def soft_cross_entropy(
    logits: Tensor,
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
    inplace: bool = False,
    backward: Backward = "auto",
) -> Tensor:
    """Cross-entropy with `q = w_class · ((1 - s)(λ e_first + (1 - λ) e_second) + s/K)`, or `dense` for the mixture.

    Either `first` or `dense` is given, not both.

    Args:
        logits: (B, K) floating, any strides. Differentiable.
        first: (B,) int64.
        second: (B,) int64, or None: `e_first` alone (λ = 1).
        weight: λ in [0, 1]: a number, a 0-d tensor, or (B,) floating.
        dense: (B, K) floating, any dtype and strides. Differentiable if it requires grad (reference serves that).
        smoothing: s in [0, 1]: a number or a 0-d tensor; a run-time value (no recompilation when it changes).
        class_weight: (K,) floating.
        sample_weight: (B,) floating, multiplies the row's loss.
        ignore_index: rows whose `first` equals it have loss and gradient exactly 0 (whatever their logits), and do not
            count in the mean. No effect on dense targets.
        reduction: "none", "mean", "sum".
        index_target: how the mean divides: by `Σ sample_weight · class_weight[first]` (True: index targets), by
            `Σ sample_weight` (False: probability targets), over rows not ignored. 0/0 is NaN.
        inplace: the backend may use the memory of `logits` for its gradient; their content is undefined afterwards.
        backward: "store" writes the gradient in the forward pass (if logits require grad) and rescales it if
            grad_output is not 1; "recompute" keeps `log_partition` and recomputes; "auto" stores for "mean" and
            "sum", recomputes for "none".

    Returns:
        0-d or (B,); float32, float64 for float64 logits. The gradient has the dtype of `logits`.

    Raises:
        IndexError: labels out of range (not `ignore_index`), on CPU; under torch.compile when the graph runs, and from
            the native kernels only. Elsewhere such rows have a NaN loss and a NaN gradient.

    A term with `q_c = 0` contributes 0 even where `z_c = -inf`.
    """
    run = find("soft_cross_entropy", "soft_cross_entropy", logits, (dense, weight, smoothing, sample_weight))
    return run(
        logits,
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
        inplace=inplace,
        backward=backward,
    )


def soft_cross_entropy_stats(
    logits: Tensor,
    first: Tensor | None = None,
    second: Tensor | None = None,
    weight: float | Tensor = 1.0,
    dense: Tensor | None = None,
    features: Tensor | None = None,
    centers: Tensor | None = None,
    *,
    smoothing: float | Tensor = 0.0,
    class_weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    index_target: bool = False,
    inplace: bool = False,
    backward: Backward = "auto",
    feature_grad: bool = False,
) -> tuple[Tensor, SampleStats]:
    """`soft_cross_entropy` and the statistics of every sample, from one launch.

    Args (the others as in `soft_cross_entropy`):
        features: (B, d) floating, any dtype and strides; None leaves out rms and cosines.
        centers: (K, d) floating, constants; None leaves out the cosines.
        feature_grad: rms, cosine and cosine_predicted carry gradients to `features` (see `feature_stats`).

    Backends leave what they were not given the inputs for (rms, cosines) at None; NaN is put in its place here.
    """
    run = find("soft_cross_entropy", "soft_cross_entropy_stats", logits, (dense, weight, smoothing, sample_weight))
    loss, stats = run(
        logits,
        first,
        second,
        weight,
        dense,
        features,
        centers,
        smoothing=smoothing,
        class_weight=class_weight,
        sample_weight=sample_weight,
        ignore_index=ignore_index,
        reduction=reduction,
        index_target=index_target,
        inplace=inplace,
        backward=backward,
        feature_grad=feature_grad,
    )
    if features is None or centers is None:
        nothing = torch.full_like(stats.confidence, torch.nan)
        rms = nothing if features is None else stats.rms
        stats = stats._replace(rms=rms, cosine=nothing, cosine_predicted=nothing)
    return loss, stats
