"""Soft-label cross-entropy, composed so that autograd differentiates it (also twice, and in the target)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from regfast.ops.reference.feature_stats import geometry
from regfast.ops.reference.mixture import ignored_rows, mixture, widened
from regfast.ops.reference.rows import pick, product, upcast
from regfast.ops.soft_cross_entropy import Backward, SampleStats
from regfast.ops.target import Reduction, Target


class _Rows(NamedTuple):
    shifted: Tensor  # (B, K) z - max z
    largest: Tensor  # (B,)
    log_sum: Tensor  # (B,) log Σ exp(z - max z)
    loss: Tensor  # (B,) weighted, 0 where ignored, NaN where a label is out of range
    share: Tensor  # (B,) the row's part in the denominator of the mean
    true: Tensor  # (B,) true class, in range
    judged: Tensor  # (B,) bool: neither ignored nor out of range


def soft_cross_entropy(logits: Tensor, target: Target, inplace: bool = False, backward: Backward = "auto") -> Tensor:
    """See `regfast.ops.soft_cross_entropy`. Autograd decides what is stored; `inplace` saves nothing here."""
    return _reduced(_rows(logits, target), target.reduction)


def soft_cross_entropy_stats(
    logits: Tensor,
    target: Target,
    features: Tensor | None = None,
    centers: Tensor | None = None,
    backward: Backward = "auto",
    feature_grad: bool = True,
) -> tuple[Tensor, SampleStats]:
    """See `regfast.ops.soft_cross_entropy`."""
    rows = _rows(logits, target)
    shifted, log_sum = rows.shifted, rows.log_sum
    undefined = log_sum.isnan()
    prediction = torch.where(undefined, 0, upcast(logits).argmax(1))
    entropy = log_sum - product((shifted - log_sum.unsqueeze(1)).exp(), shifted).sum(1)
    others = shifted.scatter(1, rows.true.unsqueeze(1), -torch.inf)
    margin = pick(shifted, rows.true) - pick(others, others.argmax(1))
    margin = torch.where(margin.isfinite(), margin, margin.detach())
    margin = torch.where(undefined, log_sum, margin)  # NaN, and its gradient
    rms: Any = None
    cosine = cosine_predicted = rms
    if features is not None:
        with torch.set_grad_enabled(feature_grad and torch.is_grad_enabled()):
            rms, cosine, cosine_predicted = geometry(features, centers, rows.true, rows.judged, prediction)
    stats = SampleStats(
        loss=rows.loss,
        log_partition=rows.largest + log_sum,
        confidence=(pick(shifted, prediction) - log_sum).exp(),
        prediction=prediction,
        entropy=entropy,
        margin=torch.where(rows.judged, margin, torch.nan),
        rms=rms,
        cosine=cosine,
        cosine_predicted=cosine_predicted,
    )
    return _reduced(rows, target.reduction), stats


def _rows(logits: Tensor, target: Target) -> _Rows:
    classes = logits.shape[1]
    z = upcast(logits)
    # The loss does not depend on what is subtracted, so the maximum is a constant.
    largest = z.detach().amax(1)
    if target.first is not None:
        # Cuts the gradient of ignored rows, which multiplying it by 0 would not do where it is NaN.
        z = torch.where((ignored_rows(target) & ~largest.isfinite()).unsqueeze(1), z.detach(), z)
    shifted = z - largest.unsqueeze(1)
    log_sum = shifted.exp().sum(1).log()
    target = widened(target, z)
    sample_weight = target.sample_weight
    penalty = target.z_loss * (largest + log_sum).square() if target.z_loss else 0.0

    if target.dense is not None:
        q = target.dense.to(z.dtype) * (1 - target.smoothing) + target.smoothing / classes
        q = q if target.class_weight is None else q * target.class_weight
        loss = q.sum(1) * log_sum - product(q, shifted).sum(1) + penalty
        share = torch.ones_like(largest)
        true = target.dense.detach().argmax(1)
        judged = torch.ones_like(true, dtype=torch.bool)
        if sample_weight is not None:
            loss, share = loss * sample_weight, share * sample_weight
        return _Rows(shifted, largest, log_sum, loss, share, true, judged)

    mixed = mixture(target, classes, z)
    dot = sum((product(share, pick(shifted, index)) for index, share in mixed.parts), torch.zeros_like(largest))
    if mixed.spread is not None:
        dot = dot + product(mixed.spread, shifted).sum(1)
    factor = torch.where(mixed.judged | mixed.ignored, 1.0, torch.nan).to(z.dtype)
    factor = factor if sample_weight is None else factor * sample_weight
    loss = torch.where(mixed.ignored, 0.0, (mixed.mass * log_sum - dot + penalty) * factor)
    share = mixed.share if sample_weight is None else mixed.share * sample_weight
    return _Rows(shifted, largest, log_sum, loss, share, mixed.true, mixed.judged)


def _reduced(rows: _Rows, reduction: Reduction) -> Tensor:
    """The rows' losses, their sum, or their weighted mean."""
    if reduction == "none":
        return rows.loss
    return rows.loss.sum() if reduction == "sum" else rows.loss.sum() / rows.share.sum()
