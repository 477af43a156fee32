"""Which classes a targeted attack tries, and in which order."""

from __future__ import annotations

import torch
from torch import Tensor

from regfast.attacks.classifier import Model
from regfast.attacks.norms import Norm
from regfast.attacks.rules import Plan

ORDERS = ("rank", "malt")
CANDIDATES = 20  # MALT looks at the gradients of this many classes


def checked_order(name: str) -> str:
    """`name` if it is one of ORDERS."""
    if name not in ORDERS:
        raise ValueError(f"target_order must be one of {', '.join(ORDERS)}, got {name!r}")
    return name


def order_targets(
    name: str, count: int, norm: Norm, model: Model, images: Tensor, labels: Tensor, logits: Tensor
) -> Plan:
    """The `count` most promising other classes of every image, (M, min(count, K - 1)) int64.

    Args:
        name: "rank": by the clean logits, as AutoAttack does. "malt": by the gap of the logits over the norm of the
            difference of their gradients, (z_t - z_y) / ‖∇z_t - ∇z_y‖, the distance to the boundary were the model
            linear (Melamed et al. 2024, arXiv 2407.02240, eq. 3), among the CANDIDATES largest logits.
        count: targets per image.
        norm: its dual measures gradients.
        model, images, labels, logits: see `Attack.plan`.
    """
    count = min(count, logits.shape[1] - 1)
    ranked = by_rank(labels, logits)
    if name == "rank" or count == 0:
        return Plan(ranked[:, :count])
    return malt(ranked[:, : max(count, min(CANDIDATES, ranked.shape[1]))], count, norm, model, images, labels)


def by_rank(labels: Tensor, logits: Tensor) -> Tensor:
    """(M, K - 1) int64: the other classes, largest logit first."""
    others = logits.scatter(1, labels.unsqueeze(1), -torch.inf)
    return others.argsort(dim=1, descending=True, stable=True)[:, :-1]


def malt(candidates: Tensor, count: int, norm: Norm, model: Model, images: Tensor, labels: Tensor) -> Plan:
    """The `count` candidates (M, c) whose boundary is nearest in the linear approximation."""
    point = images.detach().requires_grad_()
    with torch.enable_grad():
        logits = model(point)
        gaps = logits.gather(1, candidates) - logits.gather(1, labels.unsqueeze(1))
        columns = gaps.sum(0).unbind()
    score = torch.empty_like(gaps, dtype=torch.float32)
    for place in range(candidates.shape[1]):
        (slope,) = torch.autograd.grad(columns[place], point, retain_graph=True)
        score[:, place] = gaps[:, place].detach().float() / (norm.dual(slope) + 1e-12)
    best = score.argsort(dim=1, descending=True, stable=True)[:, :count]
    return Plan(candidates.gather(1, best), gradients=candidates.shape[1], queries=1)
