"""Soft-label cross-entropy, with and without per-sample statistics.

Per row, with `m = max z`, `S = Σ exp(z - m)`, `Q = Σ q`, `dot = Σ q (z - m)`: loss `= Q log S - dot`, gradient
`= Q p - q`. Shifted form, sums and the subtraction in float32 (float64 for float64), rounded once at the store.
"""

from __future__ import annotations

import sys
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from regfast.ops.dispatch import find
from regfast.ops.target import Target

__all__ = ["Backward", "SampleStats", "loss_of_labels", "soft_cross_entropy", "soft_cross_entropy_stats"]

Backward = Literal["auto", "store", "recompute"]


class SampleStats(NamedTuple):
    """Per-sample statistics: (B,) float32 (float64 for float64 logits), `prediction` int64.

    All others carry gradients, to logits and (the last three) to features. The last three are NaN without features, the
    last two without centers.

    Where a row has no softmax (a logit NaN or +inf, or all -inf) loss, log_partition, confidence, entropy and margin
    are NaN, as is the gradient, and the prediction is 0; if the row is ignored, loss and gradient are 0.
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


def soft_cross_entropy(logits: Tensor, target: Target, *, inplace: bool = False, backward: Backward = "auto") -> Tensor:
    """Cross-entropy of logits with soft labels.

    Args:
        logits: (B, K) floating, any strides. Differentiable.
        target: see `Target`.
        inplace: the backend may use the memory of `logits` for its gradient; their content is undefined afterwards.
            It does so where the gradient is stored, and no leaf and no second row lies in that memory.
        backward: "store" writes the gradient in the forward pass (if logits require grad) and scales it or makes it
            anew if grad_output is not 1; "recompute" makes it in the backward pass; "auto" stores for "mean" and
            "sum", recomputes for "none" and for float16 (a loss scale must reach the gradient before it is rounded),
            and where a backend expects a grad_output that is not 1.

    Returns:
        0-d or (B,); float32, float64 for float64 logits. The gradient has the dtype of `logits`.

    Raises:
        IndexError: labels out of range (not `ignore_index`), on CPU; under torch.compile when the graph runs, and from
            the native kernels only. Elsewhere such rows have a NaN loss and a NaN gradient.

    A term with `q_c = 0` contributes 0 even where `z_c = -inf`.
    """
    run = find("soft_cross_entropy", "soft_cross_entropy", logits, target.constants)
    return run(logits, target, inplace, backward)


def loss_of_labels(
    logits: Tensor,
    labels: Tensor,
    smoothing: float | Tensor,
    ignore_index: int,
    reduction: str,
    inplace: bool,
    backward: str,
) -> Tensor | None:
    """`soft_cross_entropy` of (B,) int64 labels by one native call, which also checks them: small losses wait for that.

    None where another backend serves the logits, and where the arguments are not plain: the caller checks them then.
    """
    if torch.compiler.is_compiling() or not logits.is_floating_point():
        return None
    native = sys.modules.get("regfast.ops.native.soft_cross_entropy")
    if native is None:
        return None
    if find("soft_cross_entropy", "soft_cross_entropy", logits) is not native.soft_cross_entropy:
        return None
    loss: Tensor | None = native.of_labels(logits, labels, smoothing, ignore_index, reduction, inplace, backward)
    return loss


def soft_cross_entropy_stats(
    logits: Tensor,
    target: Target,
    features: Tensor | None = None,
    centers: Tensor | None = None,
    *,
    backward: Backward = "auto",
    feature_grad: bool = True,
) -> tuple[Tensor, SampleStats]:
    """`soft_cross_entropy` and the statistics of every sample, from one launch.

    Args (the others as in `soft_cross_entropy`):
        features: (B, d) floating, any dtype and strides; None leaves out rms and cosines.
        centers: (K, d) floating, constants; None leaves out the cosines.
        feature_grad: rms and cosines carry gradients to `features` (see `feature_stats`); else they are constants.

    Gradients on logits, with g the incoming one: log_partition `g p`, confidence `g p_k (e_k - p)` (k the prediction),
    entropy `-g p (z - lse + entropy)`, margin `g (e_true - e_rival)` (the lowest of the largest others; 0 where the
    margin is not finite), loss as that of `reduction="none"`. An ignored row carries those that its label does not
    enter, and exactly 0 where their incoming gradients are 0.

    Backends leave what they were not given the inputs for (rms, cosines) at None; NaN is put in its place here.
    """
    run = find("soft_cross_entropy", "soft_cross_entropy_stats", logits, target.constants)
    loss, stats = run(logits, target, features, centers, backward, feature_grad)
    if features is None or centers is None:
        nothing = torch.full_like(stats.confidence, torch.nan)
        each, log_partition, confidence, prediction, entropy, margin, rms, _, _ = stats  # 2.6 traces no _replace
        rms = nothing if features is None else rms
        stats = SampleStats(each, log_partition, confidence, prediction, entropy, margin, rms, nothing, nothing)
    return loss, stats
