"""Attack objectives by name: `regfast.ops.objective` has the table, in one pass: loss, prediction, logits' gradient."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from regfast.ops import objective as ops
from regfast.ops.lanes import predicted
from regfast.ops.objective import Objective

__all__ = ["LOSSES", "Objective", "checked_loss", "mean_answer", "objective", "predicted", "stand_in", "towards"]

LOSSES = ("ce", "margin", "dlr", "probability-margin")


def objective(name: str, logits: Tensor, label: Tensor, target: Tensor) -> Objective:
    """The loss called `name` of logits (S, K) float32; `target` is read by names that end in "-targeted"."""
    return ops.objective(logits, label, stand_in(name, logits.shape[1]), target)


def towards(name: str, logits: Tensor, target: Tensor) -> Objective:
    """The objective of reaching the class `target`: minus the untargeted loss with the target as the label."""
    loss, prediction, gradient = ops.objective(logits, target, stand_in(name, logits.shape[1]))
    return Objective(-loss, prediction, -gradient)


def mean_answer(answers: Sequence[Tensor]) -> Tensor:
    """The mean of several answers of a model that answers at random, or the only one."""
    return answers[0] if len(answers) == 1 else torch.stack(tuple(answers)).mean(0)


def stand_in(name: str, classes: int) -> str:
    """DLR needs three classes, targeted DLR four: with fewer, the margin stands in for them."""
    return name if classes >= ops.KINDS[name] else name.replace("dlr", "margin")


def checked_loss(name: str) -> str:
    """`name` if it is one of LOSSES."""
    if name not in LOSSES:
        raise ValueError(f"loss must be one of {', '.join(LOSSES)}, got {name!r}")
    return name
