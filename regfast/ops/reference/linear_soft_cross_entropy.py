"""Linear layer and cross-entropy over chunks of rows: a chunk's logits are made, become their gradient, are dropped."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from regfast.ops.backward import check_first
from regfast.ops.dispatch import transformed
from regfast.ops.reference.mixture import mixture, smoothing_row, widened
from regfast.ops.reference.rows import pick, product, upcast
from regfast.ops.reference.soft_cross_entropy import soft_cross_entropy
from regfast.ops.target import Target

CHUNK = 1 << 22  # logits held at a time


def linear_soft_cross_entropy(
    features: Tensor, linear_weight: Tensor, linear_bias: Tensor | None, target: Target
) -> Tensor:
    """See `regfast.ops.linear_soft_cross_entropy`."""
    learned = torch.is_grad_enabled() and any(isinstance(c, Tensor) and c.requires_grad for c in target.constants)
    if learned or transformed():
        # Autograd, or torch.func, differentiates everything, at the price of keeping the logits.
        return soft_cross_entropy(functional.linear(features, linear_weight, linear_bias), target)
    classes, rows = len(linear_weight), len(features)
    like = upcast(features.new_zeros(()))
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
    # A loss scale must reach the gradient before it is rounded to float16.
    store = not per_row and features.dtype != torch.float16
    losses = _Chunks.apply(
        features, linear_weight, linear_bias, factor, ignored, mass, spread, dense, scale, target.z_loss, store,
        *indices,
    )  # fmt: skip
    loss = losses if per_row or store else losses.sum()
    # Over no rows, or ignored ones only, there is no loss that the division could make NaN.
    return torch.where(total == 0, torch.nan, loss) if target.reduction == "mean" else loss


class _Chunks(torch.autograd.Function):
    """Rows' losses times `factor`; with `store` their sum, whose gradients are made on the way."""

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
        z_loss: float,
        store: bool,
        *parts: Tensor,
    ) -> Tensor:
        ctx.store, ctx.z_loss = store, z_loss
        wanted = any(ctx.needs_input_grad[:3])
        rest = (ignored, mass, spread, dense, scale, *parts)
        losses, gradients = _run(wanted and store, z_loss, features, linear_weight, linear_bias, factor, *rest)
        ctx.save_for_backward(*(gradients if store else (features, linear_weight, linear_bias, factor, *rest)))
        return losses.sum() if store else losses

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        if not torch.compiler.is_compiling():
            check_first()
        saved = ctx.saved_tensors
        if ctx.store:
            gradients = tuple(None if g is None else (g * grad_output).to(g.dtype) for g in saved)
        else:
            features, linear_weight, linear_bias, factor, *rest = saved
            gradients = _run(True, ctx.z_loss, features, linear_weight, linear_bias, factor * grad_output, *rest)[1]
        return *gradients, *[None] * (len(ctx.needs_input_grad) - 3)


def _run(
    wanted: bool,
    z_loss: float,
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
    # Nothing is written in place: `factor` may carry a batch of incoming gradients.
    losses, grad_features = [factor[:0]], [features[:0]]
    grad_weight = torch.zeros_like(linear_weight, dtype=dtype) if wanted else None
    grad_bias = linear_weight.new_zeros(classes, dtype=dtype) if wanted and linear_bias is not None else None
    for begin in range(0, rows, step):
        part = slice(begin, begin + step)
        z = upcast(functional.linear(features[part], linear_weight, linear_bias))
        largest = z.amax(1)
        shifted = z - largest.unsqueeze(1)
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
        lse = largest + total.log()
        row = (chunk_mass * total.log() - dot + (z_loss * lse.square() if z_loss else 0.0)) * factor[part]
        losses.append(row if ignored is None else torch.where(ignored[part], 0.0, row))
        if grad_weight is None:
            continue
        chunk_mass = chunk_mass + 2 * z_loss * lse if z_loss else chunk_mass
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
        grad_features.append(narrow @ linear_weight)
        grad_weight = grad_weight + narrow.t() @ features[part]
        grad_bias = None if grad_bias is None else grad_bias + g.sum(0)
    gradients = (torch.cat(grad_features) if wanted else None, grad_weight, grad_bias)
    return torch.cat(losses), tuple(None if g is None else g.to(linear_weight.dtype) for g in gradients)
