"""What an attack's step does beside the model and the move, one pass each: the class, the verdict, APGD's bookkeeping.

S lanes, each with one sample in one run of `steps` moves; `step` (S,) int64 counts the answers that the run has had.
Points have any shape (S, …). Nothing here is differentiable.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from regfast.ops.dispatch import find

__all__ = ["Ascended", "ascend", "judge", "near_one", "predicted"]


class Ascended(NamedTuple):
    """APGD's next move, and its state after the answer: tensors of the old state may be written and come back."""

    best: Tensor  # (S, …)
    best_gradient: Tensor  # (S, …)
    point: Tensor  # (S, …) where the move starts
    gradient: Tensor  # (S, …)
    length: Tensor  # (S,) of the step
    momentum: Tensor  # (S,) share of the new step
    size: Tensor
    best_loss: Tensor
    last_loss: Tensor
    rises: Tensor
    checked_loss: Tensor
    halved: Tensor  # bool


def predicted(logits: Tensor) -> Tensor:
    """(S,) int64 the class of logits (S, K) float: lowest index among the largest; -1, no class, where one is NaN."""
    return find("lanes", "predicted", logits)(logits)


def near_one(gradient: Tensor) -> Tensor:
    """Rows of a gradient (S, …) times a power of two each: their largest entries end in [2^-23, 1).

    Exact: the direction is the same to the last bit, and its length can be divided by however small it was. Confident
    models have gradients whose squares are 0 in float32.
    """
    return find("lanes", "near_one", gradient)(gradient)


def judge(
    point: Tensor, loss: Tensor, prediction: Tensor, wanted: Tensor, step: Tensor, hit: Tensor, may: Tensor | None,
    kept_point: Tensor, kept_loss: Tensor, kept_prediction: Tensor, *, reach: bool, steps: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Which lanes hold a point that counts; the first of each, or the run's last, is kept until the host has seen it.

    Args:
        point: (S, …) float32, where the model was asked.
        loss: (S,) float32.
        prediction: (S,) int64; -1 never counts.
        wanted: (S,) int64: the class to reach, or the one to leave.
        step: (S,) int64, at most steps + 1: such a run has had all its answers.
        hit: (S,) bool: lanes that keep a point that counts already.
        may: (S,) bool, or None: what else is asked of a point that counts.
        kept_point, kept_loss, kept_prediction: like point, loss and prediction; written in place.
        reach: `wanted` is to be reached.
        steps: moves of a run.

    Returns:
        The new `hit`, `step` of at most `steps`, and that plus one: (S,) each.
    """
    run = find("lanes", "judge", point)
    return run(
        point, loss, prediction, wanted, step, hit, may, kept_point, kept_loss, kept_prediction, reach=reach,
        steps=steps,
    )  # fmt: skip


def ascend(
    point: Tensor, gradient: Tensor, loss: Tensor, step: Tensor, best: Tensor, best_gradient: Tensor, size: Tensor,
    best_loss: Tensor, last_loss: Tensor, rises: Tensor, checked_loss: Tensor, halved: Tensor, ends: Tensor,
    eps: float | Tensor, rho: float,
) -> Ascended:  # fmt: skip
    """APGD's bookkeeping (Croce and Hein 2020, algorithm 1): at checkpoints, halve the step and go back, or go on.

    The reference compares the loss after the first move with 0, not with the start's: kept, as it counts.

    Args:
        point, gradient: (S, …) float32, and the loss (S,) there.
        step: (S,) int64, at most `len(ends) - 2`.
        best, best_gradient: (S, …) of the largest loss in this run; may write them.
        size: (S,) step size, in eps.
        best_loss, last_loss, rises, checked_loss, halved: (S,) the state, see `regfast.attacks.apgd`.
        ends: (steps + 2,) float32: the interval that ends at each move, 0 where none does.
        eps: radius, a number or (S,).
        rho: share of an interval's moves that have to raise the loss.
    """
    run = find("lanes", "ascend", point)
    return run(
        point, gradient, loss, step, best, best_gradient, size, best_loss, last_loss, rises, checked_loss, halved,
        ends, eps, rho,
    )  # fmt: skip
