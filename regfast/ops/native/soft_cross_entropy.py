"""Soft-label cross-entropy by the native extension."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from regfast.ops.native.arguments import BACKWARDS, REDUCTIONS, code, split
from regfast.ops.soft_cross_entropy import SampleStats

_loss = torch.ops.regfast.soft_cross_entropy.default
_loss_and_stats = torch.ops.regfast.soft_cross_entropy_stats.default


def soft_cross_entropy(
    logits: Tensor,
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
    inplace: bool,
    backward: str,
) -> Tensor:
    """See `regfast.ops.soft_cross_entropy.soft_cross_entropy`."""
    weights, lam = (weight, 0.0) if isinstance(weight, Tensor) else (None, weight)
    epsilons, epsilon = (smoothing, 0.0) if isinstance(smoothing, Tensor) else (None, smoothing)
    return _loss(
        logits,
        first,
        second,
        weights,
        lam,
        dense,
        epsilons,
        epsilon,
        class_weight,
        sample_weight,
        ignore_index,
        REDUCTIONS[reduction],
        index_target,
        inplace,
        BACKWARDS[backward],
    )


def soft_cross_entropy_stats(
    logits: Tensor,
    first: Tensor | None,
    second: Tensor | None,
    weight: float | Tensor,
    dense: Tensor | None,
    features: Tensor | None,
    centers: Tensor | None,
    *,
    smoothing: float | Tensor,
    class_weight: Tensor | None,
    sample_weight: Tensor | None,
    ignore_index: int,
    reduction: str,
    index_target: bool,
    inplace: bool,
    backward: str,
    feature_grad: bool,
) -> tuple[Tensor, SampleStats]:
    """See `regfast.ops.soft_cross_entropy.soft_cross_entropy_stats`; `inplace` changes nothing here."""
    total, scalars, geometry, prediction = _loss_and_stats(
        logits,
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
        features,
        centers,
        code(BACKWARDS, "backward", backward),
        feature_grad,
    )
    loss, log_partition, confidence, entropy, margin = scalars.unbind()
    rms: Any = None
    cosine: Any = None
    cosine_predicted: Any = None
    if features is not None:
        if centers is not None:
            rms, cosine, cosine_predicted = geometry.unbind()
        else:
            rms = geometry[0]
    return total, SampleStats(
        loss, log_partition, confidence, prediction, entropy, margin, rms, cosine, cosine_predicted
    )
