"""Projected gradient descent on features through a linear head, in plain PyTorch."""

from __future__ import annotations

import math

import torch
from torch import Tensor


@torch.no_grad()
def feature_attack(
    logits: Tensor,
    rows: Tensor,
    labels: Tensor,
    eps: Tensor,
    step_size: Tensor,
    steps: int,
    *,
    linf: bool,
    margin: bool,
) -> Tensor:
    """See `regfast.ops.feature_attack.feature_attack`. Nothing in the loop waits for the host."""
    own = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, labels[:, None], True)
    radius, size = eps[:, None], step_size[:, None]
    delta = torch.zeros(len(logits), rows.shape[1]).to(logits)
    z = logits
    for _ in range(steps):
        others = z.masked_fill(own, -math.inf)
        lead = z.gather(1, labels[:, None]) - others.amax(1, keepdim=True)
        if margin:
            share = torch.zeros_like(others).scatter_(1, others.argmax(1, keepdim=True), 1)
        else:
            share = torch.softmax(others, 1)
        slope = (share - own.to(z)) @ rows
        if linf:
            moved = torch.maximum(torch.minimum(delta + size * slope.sign(), radius), -radius)
        else:
            moved = delta + size * slope / slope.norm(dim=1, keepdim=True).clamp(min=torch.finfo(z.dtype).tiny)
            norm = moved.norm(dim=1, keepdim=True)
            moved = torch.where(norm > radius, moved * (radius / norm), moved)
        delta = torch.where(lead > 0, moved, delta)
        z = logits + delta @ rows.T
    return delta
