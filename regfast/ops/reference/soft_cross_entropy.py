"""Soft-label cross-entropy, composed so that autograd differentiates it (also twice, and in the target)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from regfast.ops.reference.feature_stats import geometry
from regfast.ops.reference.mixture import mixture
from regfast.ops.reference.rows import pick, product, wide
from regfast.ops.soft_cross_entropy import Backward, Reduction, SampleStats


class _Rows(NamedTuple):
    shifted: Tensor  # (B, K) z - max z
    largest: Tensor  # (B,)
    log_sum: Tensor  # (B,) log Σ exp(z - max z)
    loss: Tensor  # (B,) weighted, 0 where ignored, NaN where a label is out of range
    share: Tensor  # (B,) the row's part in the denominator of the mean
    true: Tensor  # (B,) true class, in range
    judged: Tensor  # (B,) bool: neither ignored nor out of range


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
    """See `regfast.ops.soft_cross_entropy`. Autograd decides what is stored; `inplace` saves nothing here."""
    rows = _rows(
        logits, first, second, weight, dense, smoothing, class_weight, sample_weight, ignore_index, index_target
    )
    return reduce_rows(rows, reduction)


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
    """See `regfast.ops.soft_cross_entropy`."""
    rows = _rows(
        logits, first, second, weight, dense, smoothing, class_weight, sample_weight, ignore_index, index_target
    )
    with torch.no_grad():
        p = (rows.shifted - rows.log_sum.unsqueeze(1)).exp()
        prediction = wide(logits).argmax(1)
        rest = rows.shifted.scatter(1, rows.true.unsqueeze(1), -torch.inf).amax(1)
        margin = torch.where(rows.judged, pick(rows.shifted, rows.true) - rest, torch.nan)
        entropy = rows.log_sum - product(p, rows.shifted).sum(1)
    rms: Any = None
    cosine = cosine_predicted = rms
    if features is not None:
        with torch.set_grad_enabled(feature_grad and torch.is_grad_enabled()):
            rms, cosine, cosine_predicted = geometry(features, centers, rows.true, rows.judged, prediction)
    stats = SampleStats(
        loss=rows.loss.detach(),
        log_partition=(rows.largest + rows.log_sum).detach(),
        confidence=(-rows.log_sum).exp().detach(),
        prediction=prediction,
        entropy=entropy,
        margin=margin,
        rms=rms,
        cosine=cosine,
        cosine_predicted=cosine_predicted,
    )
    return reduce_rows(rows, reduction), stats


def _rows(
    logits: Tensor,
    first: Tensor | None,
    second: Tensor | None,
    weight: float | Tensor,
    dense: Tensor | None,
    smoothing: float | Tensor,
    class_weight: Tensor | None,
    sample_weight: Tensor | None,
    ignore_index: int,
    index_target: bool,
) -> _Rows:
    classes = logits.shape[1]
    z = wide(logits)
    if first is not None:
        # Cuts the gradient of ignored rows, which multiplying it by 0 would not do where it is NaN.
        z = torch.where((first == ignore_index).unsqueeze(1), z.detach(), z)
    # The loss does not depend on what is subtracted, so the maximum is a constant.
    largest = z.detach().amax(1)
    shifted = z - largest.unsqueeze(1)
    log_sum = shifted.exp().sum(1).log()
    if isinstance(smoothing, Tensor):
        smoothing = smoothing.to(z.device, z.dtype)
    if class_weight is not None:
        class_weight = class_weight.to(z.dtype)

    if dense is not None:
        q = dense.to(z.dtype) * (1 - smoothing) + smoothing / classes
        q = q if class_weight is None else q * class_weight
        loss = q.sum(1) * log_sum - product(q, shifted).sum(1)
        share = torch.ones_like(largest)
        true = dense.detach().argmax(1)
        judged = torch.ones_like(true, dtype=torch.bool)
        if sample_weight is not None:
            loss, share = loss * sample_weight.to(z.dtype), share * sample_weight.to(z.dtype)
        return _Rows(shifted, largest, log_sum, loss, share, true, judged)

    assert first is not None
    target = mixture(first, second, weight, smoothing, class_weight, ignore_index, index_target, classes, z)
    dot = sum((product(share, pick(shifted, index)) for index, share in target.parts), torch.zeros_like(largest))
    if target.spread is not None:
        dot = dot + product(target.spread, shifted).sum(1)
    factor = torch.where(target.judged | target.ignored, 1.0, torch.nan).to(z.dtype)
    factor = factor if sample_weight is None else factor * sample_weight.to(z.dtype)
    loss = torch.where(target.ignored, 0.0, (target.mass * log_sum - dot) * factor)
    share = target.share if sample_weight is None else target.share * sample_weight.to(z.dtype)
    return _Rows(shifted, largest, log_sum, loss, share, target.true, target.judged)


def reduce_rows(rows: _Rows, reduction: Reduction) -> Tensor:
    """The rows' losses, their sum, or their weighted mean."""
    if reduction == "none":
        return rows.loss
    return rows.loss.sum() if reduction == "sum" else rows.loss.sum() / rows.share.sum()
