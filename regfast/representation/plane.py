"""Two-dimensional representation spaces on a grid: confidence and regions, and one class's loss and gradient field."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from regfast.checks import Kind, checked, floats, whole
from regfast.representation.span import LINEAR_HEAD

PLANE: dict[str, Kind] = {**LINEAR_HEAD, "weight": floats("K", 2, finite=True, least=(2,))}


class Contours(NamedTuple):
    """The head on a grid, all (ny, nx) float64 (prediction int64)."""

    confidence: Tensor
    prediction: Tensor
    margin: Tensor  # largest logit minus the second: 0 on the decision boundaries


class GradientField(NamedTuple):
    """Cross-entropy of one class on a grid, float64."""

    loss: Tensor  # (ny, nx)
    gradient: Tensor  # (ny, nx, 2) ∂loss/∂(x, y); descent goes the other way
    margin: Tensor  # (ny, nx) z_label minus the largest other logit: 0 on the class's decision boundary


@checked(**PLANE, x=floats("X"), y=floats("Y"))
def confidence_contours(weight: Tensor, bias: Tensor | None, x: Tensor, y: Tensor) -> Contours:
    """Confidence, prediction and margin of a head on two-dimensional features, on the grid x × y in one batch.

    Args:
        weight: (K, 2), K >= 2. bias: (K,) or None. x: (nx,), y: (ny,) coordinates.

    Raises:
        ValueError: a head that is not two-dimensional or has one class, coordinates that are not 1-d.
    """
    logits = _grid_logits(weight, bias, x, y)
    top, index = logits.topk(2, dim=2)
    confidence = (top[..., 0] - torch.logsumexp(logits, 2)).exp()
    return Contours(confidence, index[..., 0], top[..., 0] - top[..., 1])


@checked(**PLANE, label=whole(-(2**63)), x=floats("X"), y=floats("Y"))
def gradient_field(weight: Tensor, bias: Tensor | None, label: int, x: Tensor, y: Tensor) -> GradientField:
    """Cross-entropy of class ``label``, its gradient Wᵀ(p - e_label) and the class's margin on the grid x × y.

    Arguments and errors as `confidence_contours`; a label outside 0 … K-1 is an IndexError.
    """
    logits = _grid_logits(weight, bias, x, y)
    if not 0 <= label < len(weight):
        raise IndexError(f"label must lie in 0 … {len(weight) - 1}, got {label}")
    others = logits.clone()
    others[..., label] = -torch.inf
    lse, own = torch.logsumexp(others, 2), logits[..., label]
    # softplus and sigmoid of F = lse - own: exact far out, where 1 - p_label rounds to 0.
    towards = torch.softmax(others, 2) @ weight.detach().double() - weight[label].detach().double()
    gradient = torch.sigmoid(lse - own)[..., None] * towards
    return GradientField(torch.logaddexp(torch.zeros_like(own), lse - own), gradient, own - others.amax(2))


def _grid_logits(weight: Tensor, bias: Tensor | None, x: Tensor, y: Tensor) -> Tensor:
    head = weight.detach().double()
    points = torch.stack(torch.meshgrid(x.to(head), y.to(head), indexing="xy"), dim=2)
    logits = points @ head.T
    return logits if bias is None else logits + bias.detach().to(head)
