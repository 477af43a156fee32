"""Moves of attacks: steps projected to ball and box, random starts, the projection to the l1 ball and box."""

from __future__ import annotations

import torch
from torch import Tensor

from regfast.ops.perturbation import TINY, Norm, Start
from regfast.ops.philox import normal, uniform


def perturb_step(
    point: Tensor,
    gradient: Tensor,
    clean: Tensor,
    eps: float | Tensor,
    step: float | Tensor,
    norm: Norm,
    previous: Tensor | None = None,
    momentum: float | Tensor = 1.0,
    *,
    sparsity: float | Tensor = 1.0,
    lower: float = 0.0,
    upper: float = 1.0,
) -> Tensor:
    """See `regfast.ops.perturbation`."""
    with torch.no_grad():
        way = _direction(gradient.to(point.dtype), norm, sparsity)
        moved = _project(point + _column(step, point) * way, clean, eps, norm, lower, upper)
        if previous is None:
            return moved
        share = _column(momentum, point)
        moved = point + share * (moved - point) + (1 - share) * (point - previous)
        return _project(moved, clean, eps, norm, lower, upper)


def random_start(
    clean: Tensor,
    eps: float | Tensor,
    norm: Norm,
    seed: int,
    sample: Tensor,
    stage: int = 0,
    restart: int | Tensor = 0,
    step: int | Tensor = 0,
    *,
    start: Start = "sphere",
    lower: float = 0.0,
    upper: float = 1.0,
) -> Tensor:
    """See `regfast.ops.perturbation`."""
    count = clean[0].numel() if len(clean) else 0
    with torch.no_grad():
        draw = uniform if norm == "linf" else normal
        noise = draw(seed, sample, stage, restart, step, count).to(clean.dtype).view(clean.shape)
        if norm == "l1":
            return clean + l1_box_projection(clean, noise, eps, lower=lower, upper=upper)
        if norm == "linf":
            noise = 2 * noise - 1
            if start == "sphere":
                noise = noise / (_amax(noise) + TINY)
        else:
            noise = noise / (_length(noise) + TINY)
            if start == "ball":
                noise = noise * _column(uniform(seed, sample, stage, restart, step, 1)[:, 0], noise)
        return (clean + _column(eps, clean) * noise).clamp(lower, upper)


def l1_box_projection(
    clean: Tensor, delta: Tensor, eps: float | Tensor, *, lower: float = 0.0, upper: float = 1.0
) -> Tensor:
    """See `regfast.ops.perturbation`.

    The norm `Σ clip(|δ_i| - μ, 0, room_i)` falls with μ in straight pieces that break at |δ_i| and |δ_i| - room_i:
    sort the breaks and walk down from the largest until the norm is reached.
    """
    shape = delta.shape
    if delta.numel() == 0:
        return delta.clone()
    with torch.no_grad():
        clean, delta = clean.flatten(1), delta.flatten(1)
        size = delta.abs()
        room = torch.where(delta > 0, upper - clean, clean - lower).clamp(min=0)
        breaks = torch.cat((size, size - room), 1)
        turns = torch.cat((torch.ones_like(size), -torch.ones_like(size)), 1)
        ordered, order = breaks.sort(dim=1, descending=True)
        slope = turns.gather(1, order).cumsum(1)
        pieces = slope[:, :-1] * (ordered[:, :-1] - ordered[:, 1:])
        norm = torch.cat((torch.zeros_like(pieces[:, :1]), pieces.cumsum(1)), 1)
        radius = _column(eps, delta)
        last = ((norm <= radius).sum(1, keepdim=True) - 1).clamp(min=0)
        left = radius - norm.gather(1, last)
        mu = (ordered.gather(1, last) - left / slope.gather(1, last).clamp(min=1)).clamp(min=0)
        return (delta.sign() * (size - mu).clamp(min=0).minimum(room)).view(shape)


def _column(value: float | Tensor, like: Tensor) -> float | Tensor:
    """A per-sample number, shaped to multiply `like` (B, …)."""
    if not isinstance(value, Tensor) or value.dim() == 0:
        return value
    return value.to(like.dtype).view(-1, *[1] * (like.dim() - 1))


def _length(delta: Tensor) -> Tensor:
    return _column(delta.flatten(1).square().sum(1).sqrt(), delta)  # type: ignore[return-value]


def _amax(delta: Tensor) -> Tensor:
    return _column(delta.flatten(1).abs().amax(1), delta) if delta.numel() else delta  # type: ignore[return-value]


def _direction(gradient: Tensor, norm: Norm, sparsity: float | Tensor) -> Tensor:
    if norm == "linf":
        return gradient.sign()
    if norm == "l2":
        return gradient / (_length(gradient) + TINY)
    if gradient.numel() == 0:
        return gradient
    size = gradient.flatten(1).abs()
    count = size.shape[1]
    share = torch.as_tensor(sparsity, dtype=torch.float32, device=size.device).expand(len(size))
    rank = ((1 - share) * count).clamp(0, count - 1).long()
    threshold = size.sort(1).values.gather(1, rank.unsqueeze(1))
    signs = torch.where(size >= threshold, gradient.flatten(1).sign(), 0.0)
    return (signs / (signs.abs().sum(1, keepdim=True) + 1e-10)).view_as(gradient)


def _project(point: Tensor, clean: Tensor, eps: float | Tensor, norm: Norm, lower: float, upper: float) -> Tensor:
    if norm == "linf":
        radius = _column(eps, clean)
        return torch.minimum(torch.maximum(point, clean - radius), clean + radius).clamp(lower, upper)
    delta = point - clean
    if norm == "l1":
        return clean + l1_box_projection(clean, delta, eps, lower=lower, upper=upper)
    length = _length(delta)
    radius = torch.as_tensor(_column(eps, clean), dtype=clean.dtype, device=clean.device)
    return (clean + delta / (length + TINY) * torch.minimum(radius, length)).clamp(lower, upper)
