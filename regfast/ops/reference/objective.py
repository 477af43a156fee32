"""What attacks climb: value, prediction and gradient on the logits, from a row's top logits."""

from __future__ import annotations

import torch
from torch import Tensor

from regfast.ops.objective import Objective
from regfast.ops.reference.rows import in_range, pick, upcast

TINY = 1e-12


def objective(logits: Tensor, labels: Tensor, kind: str, targets: Tensor | None = None) -> Objective:
    """See `regfast.ops.objective`."""
    z = upcast(logits.detach())
    valid = in_range(labels, z.shape[1], "labels")
    label = torch.where(valid, labels, 0)
    name = kind.removesuffix("-targeted")
    targeted = kind != name
    if targeted:
        assert targets is not None
        inside = in_range(targets, z.shape[1], "targets")
        valid = valid & inside
        to = torch.where(inside, targets, 0)
    else:
        to = _without(z, label).argmax(1) if name != "ce" else label

    if name == "ce":
        loss, gradient = _cross_entropy(z, to, sign=-1.0 if targeted else 1.0)
    elif name == "margin":
        loss, gradient = pick(z, to) - pick(z, label), _sparse(z, (to, 1.0), (label, -1.0))
    elif name == "dlr":
        loss, gradient = _logit_ratio(z, label, to, targeted)
    else:
        p = z.softmax(1)
        up, down = pick(p, to), pick(p, label)
        loss = up - down
        gradient = _sparse(p, (to, up), (label, -down)) - p * loss.unsqueeze(1)
    loss = torch.where(valid, loss, torch.nan)
    gradient = torch.where(valid.unsqueeze(1), gradient, torch.nan).to(logits.dtype)
    return Objective(loss, z.argmax(1), gradient)


def _without(z: Tensor, index: Tensor) -> Tensor:
    return z.scatter(1, index.unsqueeze(1), -torch.inf)


def _sparse(z: Tensor, *terms: tuple[Tensor, Tensor | float]) -> Tensor:
    """Σ coefficient · e_index per row, (B, K)."""
    gradient = torch.zeros_like(z)
    for index, coefficient in terms:
        value = torch.zeros_like(z[:, 0]) + coefficient
        gradient.scatter_add_(1, index.unsqueeze(1), value.unsqueeze(1))
    return gradient


def _cross_entropy(z: Tensor, label: Tensor, sign: float) -> tuple[Tensor, Tensor]:
    shifted = z - z.amax(1, keepdim=True)
    e = shifted.exp()
    total = e.sum(1)
    loss = total.log() - pick(shifted, label)
    return sign * loss, sign * (e / total.unsqueeze(1) + _sparse(z, (label, -1.0)))


def _logit_ratio(z: Tensor, label: Tensor, to: Tensor, targeted: bool) -> tuple[Tensor, Tensor]:
    """DLR: the margin over the distance from the largest logit to the third (targeted: mean of third and fourth)."""
    ranks, rest = [], z
    for _ in range(4 if targeted else 3):
        ranks.append(rest.argmax(1))
        rest = _without(rest, ranks[-1])
    low = [(index, 1.0 / len(ranks[2:])) for index in ranks[2:]]
    scale = 1.0 / (pick(z, ranks[0]) - sum(share * pick(z, index) for index, share in low) + TINY)
    loss = (pick(z, to) - pick(z, label)) * scale
    slope = loss * scale
    falls = [(index, share * slope) for index, share in low]
    return loss, _sparse(z, (to, scale), (label, -scale), (ranks[0], -slope), *falls)
