"""Attack objectives by name: what the steps climb, as loss, prediction and gradient on the logits.

| name | loss | source |
|---|---|---|
| ce | cross-entropy | |
| margin | max_{j≠y} z_j - z_y | Carlini and Wagner 2017 |
| dlr | -(z_y - max_{j≠y} z_j) / (z_(1) - z_(3)) | Croce and Hein 2020, eq. 7 |
| dlr-targeted | -(z_y - z_t) / (z_(1) - (z_(3) + z_(4)) / 2) | eq. 9 |
| margin-targeted | z_t - z_y | |
| ce-targeted | log p_t | |
| probability-margin | max_{j≠y} p_j - p_y | PMA, arXiv 2411.15210 |
| probability-margin-targeted | p_t - p_y | |
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

TINY = 1e-12  # what the reference adds to DLR's denominators
LOSSES = ("ce", "margin", "dlr", "probability-margin")


class Objective(NamedTuple):
    """Per lane: the loss (S,), the predicted class (S,) int64, and the loss's gradient on the logits (S, K)."""

    loss: Tensor
    prediction: Tensor
    gradient: Tensor


def objective(name: str, logits: Tensor, label: Tensor, target: Tensor) -> Objective:
    """The loss called `name` (see the table above) of logits (S, K) float32; `target` is read by targeted ones only.

    DLR needs three classes, targeted DLR four: with fewer the margin stands in for them.
    """
    return _LOSSES[_defined(name, logits.shape[1])](logits, label, target)


def reach(name: str, logits: Tensor, target: Tensor) -> Objective:
    """The objective of reaching the class `target`: minus the untargeted loss with the target as the label."""
    loss, prediction, gradient = _LOSSES[_defined(name, logits.shape[1])](logits, target, target)
    return Objective(-loss, prediction, -gradient)


def _defined(name: str, classes: int) -> str:
    least = {"dlr": 3, "dlr-targeted": 4}.get(name, 0)
    return name if classes >= least else name.replace("dlr", "margin")


def checked_loss(name: str) -> str:
    """`name` if it is one of LOSSES."""
    if name not in LOSSES:
        raise ValueError(f"loss must be one of {', '.join(LOSSES)}, got {name!r}")
    return name


def _at(logits: Tensor, index: Tensor) -> Tensor:
    return logits.gather(1, index.unsqueeze(1)).squeeze(1)


def _unit(logits: Tensor, *terms: tuple[Tensor, Tensor | float]) -> Tensor:
    """Σ coefficient · e_index per row, (S, K)."""
    gradient = torch.zeros_like(logits)
    for index, coefficient in terms:
        value = coefficient if isinstance(coefficient, Tensor) else torch.full_like(logits[:, 0], coefficient)
        gradient.scatter_add_(1, index.unsqueeze(1), value.unsqueeze(1))
    return gradient


def _other(logits: Tensor, label: Tensor) -> Tensor:
    """(S,) int64: the largest logit's class that is not the label."""
    return logits.scatter(1, label.unsqueeze(1), -torch.inf).argmax(1)


def _ce(logits: Tensor, label: Tensor, target: Tensor) -> Objective:
    log_p = logits.log_softmax(1)
    gradient = log_p.exp()
    gradient.scatter_add_(1, label.unsqueeze(1), -torch.ones_like(logits[:, :1]))
    return Objective(-_at(log_p, label), logits.argmax(1), gradient)


def _ce_targeted(logits: Tensor, label: Tensor, target: Tensor) -> Objective:
    loss, prediction, gradient = _ce(logits, target, target)
    return Objective(-loss, prediction, -gradient)


def _margin(logits: Tensor, label: Tensor, target: Tensor) -> Objective:
    return _margin_targeted(logits, label, _other(logits, label))


def _margin_targeted(logits: Tensor, label: Tensor, target: Tensor) -> Objective:
    loss = _at(logits, target) - _at(logits, label)
    return Objective(loss, logits.argmax(1), _unit(logits, (target, 1.0), (label, -1.0)))


def _dlr(logits: Tensor, label: Tensor, target: Tensor) -> Objective:
    top = logits.topk(3, dim=1)
    first, third = top.indices[:, 0], top.indices[:, 2]
    # The largest other logit is the second where the label is first, and the first where it is not.
    other = torch.where(first == label, top.indices[:, 1], first)
    scale = 1.0 / (top.values[:, 0] - top.values[:, 2] + TINY)
    loss = (_at(logits, other) - _at(logits, label)) * scale
    slope = loss * scale
    return Objective(loss, first, _unit(logits, (other, scale), (label, -scale), (first, -slope), (third, slope)))


def _dlr_targeted(logits: Tensor, label: Tensor, target: Tensor) -> Objective:
    top = logits.topk(4, dim=1)
    first, third, fourth = top.indices[:, 0], top.indices[:, 2], top.indices[:, 3]
    scale = 1.0 / (top.values[:, 0] - 0.5 * (top.values[:, 2] + top.values[:, 3]) + TINY)
    loss = (_at(logits, target) - _at(logits, label)) * scale
    slope = loss * scale
    half = 0.5 * slope
    terms = ((target, scale), (label, -scale), (first, -slope), (third, half), (fourth, half))
    return Objective(loss, first, _unit(logits, *terms))


def _probability_margin(logits: Tensor, label: Tensor, target: Tensor) -> Objective:
    return _probability_margin_targeted(logits, label, _other(logits, label))


def _probability_margin_targeted(logits: Tensor, label: Tensor, target: Tensor) -> Objective:
    p = logits.softmax(1)
    to, of = _at(p, target), _at(p, label)
    loss = to - of
    gradient = _unit(p, (target, to), (label, -of)) - p * loss.unsqueeze(1)
    return Objective(loss, logits.argmax(1), gradient)


_LOSSES = {
    "ce": _ce,
    "ce-targeted": _ce_targeted,
    "margin": _margin,
    "margin-targeted": _margin_targeted,
    "dlr": _dlr,
    "dlr-targeted": _dlr_targeted,
    "probability-margin": _probability_margin,
    "probability-margin-targeted": _probability_margin_targeted,
}
