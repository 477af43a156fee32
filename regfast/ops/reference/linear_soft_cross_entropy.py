"""Linear layer and cross-entropy over chunks of rows: a chunk's logits are made, used and dropped."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from regfast.ops.reference.soft_cross_entropy import soft_cross_entropy
from regfast.ops.soft_cross_entropy import Reduction

CHUNK = 1 << 22  # logits held at a time


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
    """See `regfast.ops.linear_soft_cross_entropy`."""

    def rows(x: Tensor, y1: Tensor | None, y2: Tensor | None, mix: float | Tensor, q: Tensor | None) -> Tensor:
        logits = functional.linear(x, linear_weight, linear_bias)
        return soft_cross_entropy(
            logits,
            y1,
            y2,
            mix,
            q,
            smoothing=smoothing,
            class_weight=class_weight,
            ignore_index=ignore_index,
            reduction="none",
        )

    step = max(1, CHUNK // len(linear_weight))
    losses = []
    for begin in range(0, len(features), step):
        part = slice(begin, begin + step)
        mix = weight[part] if isinstance(weight, Tensor) and weight.dim() else weight
        tensors = [t if t is None else t[part] for t in (first, second, dense)]
        losses.append(checkpoint(rows, features[part], tensors[0], tensors[1], mix, tensors[2], use_reentrant=False))
    loss = (
        torch.cat(losses)
        if losses
        else (features @ linear_weight.t()).sum(1).to(torch.promote_types(features.dtype, torch.float32))
    )
    share = torch.ones_like(loss) if first is None else (first != ignore_index).to(loss.dtype)
    if first is not None and index_target and class_weight is not None:
        share = share * class_weight[torch.where(share > 0, first, 0)]
    if sample_weight is not None:
        loss, share = loss * sample_weight, share * sample_weight
    if reduction == "none":
        return loss
    return loss.sum() if reduction == "sum" else loss.sum() / share.sum()
