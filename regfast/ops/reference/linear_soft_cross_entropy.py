"""Linear layer and cross-entropy over chunks of rows: a chunk's logits are made, become their gradient, are dropped."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from regfast.ops.reference.mixture import mixture, smoothing_row, widened
from regfast.ops.reference.rows import pick, product, wide
from regfast.ops.reference.soft_cross_entropy import soft_cross_entropy
from regfast.ops.target import Target

CHUNK = 1 << 22  # logits held at a time


def linear_soft_cross_entropy(
    features: Tensor, linear_weight: Tensor, linear_bias: Tensor | None, target: Target
) -> Tensor:
    """See `regfast.ops.linear_soft_cross_entropy`."""
    if torch.is_grad_enabled() and any(isinstance(c, Tensor) and c.requires_grad for c in target.constants):
        # A target that is learned too: autograd differentiates everything, at the price of keeping the logits.
        return soft_cross_entropy(functional.linear(features, linear_weight, linear_bias), target)
    classes, rows = len(linear_weight), len(features)
    like = wide(features.new_zeros(()))
    target = widened(target, like)
    dense, class_weight = target.dense, target.class_weight
    factor = like.new_ones(rows) if target.sample_weight is None else target.sample_weight
    parts: list[tuple[Tensor, Tensor]] = []
    if dense is None:
        mixed = mixture(target, classes, like)
        parts, spread, mass, ignored = mixed.parts, mixed.spread, mixed.mass, mixed.ignored
        total = (factor * mixed.share).sum()
        factor = factor * torch.where(mixed.judged | ignored, 1.0, torch.nan).to(like.dtype)
        scale = None
    else:
        spread = smoothing_row(target, classes, like)
        scale = like.new_ones(1, classes) * (1 - target.smoothing) * (1.0 if class_weight is None else class_weight)
        mass, ignored, total = None, None, factor.sum()
    if target.reduction == "mean":
        factor = factor / total
    indices = [t for part in parts for t in part]
    per_row = target.reduction == "none"
    return _Chunks.apply(
        features, linear_weight, linear_bias, factor, ignored, mass, spread, dense, scale, per_row, *indices
    )


class _Chunks(torch.autograd.Function):
    """Rows' losses times `factor`, as they are or summed. Summed, the gradients are made on the way."""

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        linear_weight: Tensor,
        linear_bias: Tensor | None,
        factor: Tensor,
        ignored: Tensor | None,
        mass: Tensor | None,
        spread: Tensor | None,
        dense: Tensor | None,
        scale: Tensor | None,
        per_row: bool,
        *parts: Tensor,
    ) -> Tensor:
        ctx.per_row = per_row
        wanted = any(ctx.needs_input_grad[:3])
        rest = (ignored, mass, spread, dense, scale, *parts)
        losses, gradients = _run(wanted and not per_row, features, linear_weight, linear_bias, factor, *rest)
        ctx.save_for_backward(*((features, linear_weight, linear_bias, factor, *rest) if per_row else gradients))
        return losses if per_row else losses.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        if ctx.per_row:
            features, linear_weight, linear_bias, factor, *rest = saved
            gradients = _run(True, features, linear_weight, linear_bias, factor * grad_output, *rest)[1]
            return *gradients, *[None] * (len(saved) - 2)
        gradients = tuple(None if g is None else g * grad_output.to(g.dtype) for g in saved)
        return *gradients, *[None] * (len(ctx.needs_input_grad) - 3)


def _run(
    wanted: bool,
    features: Tensor,
    linear_weight: Tensor,
    linear_bias: Tensor | None,
    factor: Tensor,
    ignored: Tensor | None,
    mass: Tensor | None,
    spread: Tensor | None,
    dense: Tensor | None,
    scale: Tensor | None,
    *parts: Any,
) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    """Losses (B,) times `factor`; and, if `wanted`, the gradients of their sum on features, weight and bias."""
    rows, classes, dtype = len(features), len(linear_weight), factor.dtype
    step = max(1, CHUNK // classes)
    losses = torch.empty_like(factor)
    grad_features = torch.empty_like(features) if wanted else None
    grad_weight = torch.zeros_like(linear_weight, dtype=dtype) if wanted else None
    grad_bias = linear_weight.new_zeros(classes, dtype=dtype) if wanted and linear_bias is not None else None
    for begin in range(0, rows, step):
        part = slice(begin, begin + step)
        z = wide(functional.linear(features[part], linear_weight, linear_bias))
        shifted = z - z.amax(1, keepdim=True)
        e = shifted.exp()
        total = e.sum(1)
        indices = [(parts[i][part], parts[i + 1][part]) for i in range(0, len(parts), 2)]
        if dense is not None:
            assert scale is not None
            q = dense[part].to(dtype) * scale
            q = q if spread is None else q + spread
            chunk_mass, dot = q.sum(1), product(q, shifted).sum(1)
        else:
            assert mass is not None
            chunk_mass, dot = mass[part], torch.zeros_like(total)
            for index, coefficient in indices:
                dot = dot + product(coefficient, pick(shifted, index))
            dot = dot if spread is None else dot + product(spread, shifted).sum(1)
        row = (chunk_mass * total.log() - dot) * factor[part]
        losses[part] = row if ignored is None else torch.where(ignored[part], 0.0, row)
        if not wanted:
            continue
        assert grad_features is not None and grad_weight is not None
        g = e * (chunk_mass / total).unsqueeze(1)
        if dense is not None:
            g = g - q
        else:
            g = g if spread is None else g - spread
            for index, coefficient in indices:
                g = g.scatter_add(1, index.unsqueeze(1), -coefficient.unsqueeze(1))
        g = g * factor[part].unsqueeze(1)
        g = g if ignored is None else g.masked_fill(ignored[part].unsqueeze(1), 0.0)
        narrow = g.to(features.dtype)
        grad_features[part] = narrow @ linear_weight
        grad_weight += narrow.t() @ features[part]
        if grad_bias is not None:
            grad_bias += g.sum(0)
    grad_weight = None if grad_weight is None else grad_weight.to(linear_weight.dtype)
    return losses, (grad_features, grad_weight, None if grad_bias is None else grad_bias.to(linear_weight.dtype))
