"""What an attack's step does beside the model and the move; the meaning is in `regfast.ops.lanes`."""

from __future__ import annotations

import torch
from torch import Tensor

from regfast.ops.lanes import Ascended

__all__ = ["ascend", "choose", "judge", "near_one", "predicted"]


def predicted(logits: Tensor) -> Tensor:
    """See `regfast.ops.lanes`."""
    return logits.argmax(1).masked_fill(logits.isnan().any(1), -1)


def near_one(gradient: Tensor) -> Tensor:
    """See `regfast.ops.lanes`."""
    exponent = torch.frexp(gradient.flatten(1).abs().amax(1)).exponent
    scale = (-exponent).clamp(-126, 126)  # 2^127 and more are no factors
    return torch.ldexp(gradient, scale.view(-1, *[1] * (gradient.ndim - 1)))


def judge(
    point: Tensor, loss: Tensor, prediction: Tensor, wanted: Tensor, step: Tensor, hit: Tensor, may: Tensor | None,
    kept_point: Tensor, kept_loss: Tensor, kept_prediction: Tensor, *, reach: bool, steps: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """See `regfast.ops.lanes`."""
    counts = prediction == wanted if reach else (prediction != wanted) & (prediction >= 0)
    if may is not None:
        counts = counts & may
    new = counts & ~hit & (step <= steps)
    keep = new | (~hit & (step == steps))
    for kept, now in ((kept_point, point), (kept_loss, loss), (kept_prediction, prediction)):
        kept.copy_(torch.where(keep.view(-1, *[1] * (now.ndim - 1)), now, kept))
    held = step.clamp(max=steps)
    return hit | new, held, held + 1


def ascend(
    point: Tensor, gradient: Tensor, loss: Tensor, step: Tensor, best: Tensor, best_gradient: Tensor, size: Tensor,
    best_loss: Tensor, last_loss: Tensor, rises: Tensor, checked_loss: Tensor, halved: Tensor, ends: Tensor,
    eps: float | Tensor, rho: float,
) -> Ascended:  # fmt: skip
    """See `regfast.ops.lanes`."""
    first = step == 0
    size = torch.where(first, 2.0, size)
    halved = halved | first
    better = first | (loss > best_loss)
    best_loss = torch.where(better, loss, best_loss)
    checked_loss = torch.where(first, loss, checked_loss)
    rises = torch.where(first, 0.0, rises + (loss > torch.where(step == 1, 0.0, last_loss)))

    interval = ends[step]
    checkpoint = interval > 0
    stuck = ~halved & (checked_loss >= best_loss)
    halve = checkpoint & ((rises <= rho * interval) | stuck)
    size = torch.where(halve, size / 2, size)
    halved = torch.where(checkpoint, halve, halved)
    checked_loss = torch.where(checkpoint, best_loss, checked_loss)
    rises = torch.where(checkpoint, 0.0, rises)
    best, best_gradient = choose(better, point, best), choose(better, gradient, best_gradient)
    return Ascended(
        best, best_gradient, choose(halve, best, point), choose(halve, best_gradient, gradient), size * eps,
        torch.where(first, 1.0, 0.75), size, best_loss, loss, rises, checked_loss, halved,
    )  # fmt: skip


def choose(mask: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """Rows of `new` where `mask` (S,) bool, else of `old`; may be either of them.

    On a CPU only the chosen rows are touched; on a GPU the whole is, so that nothing waits for the mask.
    """
    if mask.device.type != "cpu":
        return torch.where(mask.view(-1, *[1] * (new.ndim - 1)), new, old)
    rows = mask.nonzero().squeeze(1)
    if len(rows) == len(mask):
        return new
    return old if len(rows) == 0 else old.index_copy(0, rows, new[rows])
