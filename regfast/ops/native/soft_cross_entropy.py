"""Soft-label cross-entropy by the native extension."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from regfast.ops.native.arguments import BACKWARDS, parts
from regfast.ops.soft_cross_entropy import SampleStats
from regfast.ops.target import Target

# Of hard labels without weights, None where the arguments are not plain. Matching a schema takes as long as all else.
of_labels: Callable[..., Tensor | None] = importlib.import_module("regfast._native").loss_of_labels
_loss = torch.ops.regfast.soft_cross_entropy.default
_loss_and_stats = torch.ops.regfast.soft_cross_entropy_stats.default


def soft_cross_entropy(logits: Tensor, target: Target, inplace: bool, backward: str) -> Tensor:
    """See `regfast.ops.soft_cross_entropy.soft_cross_entropy`."""
    return _loss(logits, *parts(target), inplace, BACKWARDS[backward])


def soft_cross_entropy_stats(
    logits: Tensor,
    target: Target,
    features: Tensor | None,
    centers: Tensor | None,
    backward: str,
    feature_grad: bool,
) -> tuple[Tensor, SampleStats]:
    """See `regfast.ops.soft_cross_entropy.soft_cross_entropy_stats`."""
    total, scalars, geometry, prediction = _loss_and_stats(
        logits, *parts(target), features, centers, BACKWARDS[backward], feature_grad
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
