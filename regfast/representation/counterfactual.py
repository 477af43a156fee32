"""Cause or company: give one model's features another model's norms, and see what follows."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from regfast.calibration import expected_calibration_error
from regfast.checks import checked, classes, floats, number, whole
from regfast.representation.boundary import boundary_distance
from regfast.representation.feature_attack import feature_attack
from regfast.representation.span import LINEAR_HEAD


class Counterfactual(NamedTuple):
    """A model with the directions (and head) of one and the norms of another."""

    accuracy: float
    ece: float
    distance: float  # median over correct samples of the distance to the nearest boundary; NaN where none is correct
    gradient_distance: float  # the same along the cross-entropy gradient
    asr: float  # share of the correct samples that PGD on the features flips within eps
    asr_exact: float  # the same for the strongest attack there is: distance <= eps


@checked(directions=floats("B", "d"), norms=floats("B", "e"))
def swap_norms(directions: Tensor, norms: Tensor) -> Tensor:
    """Features with the directions of one set and the norms of another, sample by sample.

    Args:
        directions: (B, d) features, whose directions are kept; norms: (B, d') features of the same samples, whose norms
            are taken. RMS is what carries over: ‖·‖/sqrt(d) of the result equals that of ``norms``, whatever d and d'.

    Returns:
        (B, d) float64; a feature of length 0 has no direction and stays 0.

    Raises:
        ValueError: different numbers of samples.
    """
    v, other = directions.detach().double(), norms.detach().double()
    length, wanted = v.norm(dim=1), other.norm(dim=1) * (v.shape[1] / other.shape[1]) ** 0.5
    return v * (wanted / torch.where(length == 0, 1, length))[:, None]


@checked(
    **LINEAR_HEAD,
    directions=floats("B", "d", finite=True),
    norms=floats("B", "e", finite=True),
    labels=classes("B", "K"),
    eps=number(0),
    steps=whole(1),
    bins=whole(1),
)
def counterfactual(
    directions: Tensor,
    norms: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    *,
    eps: float,
    steps: int = 20,
    bins: int = 15,
) -> Counterfactual:
    """Accuracy, ECE and feature-space robustness of a model whose features got another model's norms.

    Args:
        directions: (B, d) features of the model that keeps its directions, ``weight`` (K, d) and ``bias`` (K,) or None.
        norms: (B, d') features of the same samples in the model that gives the norms; the same tensor gives the model
            itself.
        labels: (B,) int64.
        eps: l2 radius of the feature-space attack, in the features' units; steps: of its PGD; bins: of the ECE.

    Errors as in `swap_norms` and `feature_attack`.
    """
    features = swap_norms(directions, norms)
    head = weight.detach().to(features)
    logits = features @ head.T if bias is None else features @ head.T + bias.detach().to(features)
    confidence, prediction = torch.softmax(logits, 1).max(dim=1)
    correct = prediction == labels
    way = boundary_distance(features, weight, bias, labels)
    attacked = feature_attack(features, weight, bias, labels, eps=eps, steps=steps)
    some = bool(correct.any())
    nan = float("nan")
    return Counterfactual(
        accuracy=float(correct.double().mean()),
        ece=expected_calibration_error(confidence.clamp(max=1), correct, bins),
        distance=float(way.distance[correct].median()) if some else nan,
        gradient_distance=float(way.gradient_distance[correct].median()) if some else nan,
        asr=float(attacked.success[correct].double().mean()) if some else nan,
        asr_exact=float((way.distance[correct] <= eps).double().mean()) if some else nan,
    )
