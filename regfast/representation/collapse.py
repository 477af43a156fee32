"""Neural-collapse measures NC1 to NC4 (Papyan, Han & Donoho 2020), with the normalization of each stated."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from regfast.checks import checked, classes, floats, whole
from regfast.representation.span import CLASSIFIED, pseudoinverse, row_space


class Collapse(NamedTuple):
    """Floats, all 0 at full collapse."""

    nc1: float  # tr(Σ_W Σ_B⁺)/K: spread within classes over spread between them
    nc2_norm: float  # std over mean of ‖μ_c - μ‖, over classes: equal lengths
    nc2_angle: float  # mean over pairs of |cos(μ_c - μ, μ_k - μ) + 1/(K-1)|: the simplex's angles
    nc3: float  # ‖Wᵀ/‖W‖_F - M/‖M‖_F‖_F: the head's rows are the class means (self-duality), W centered over classes
    nc4: float  # share of samples where head and nearest class mean disagree
    within_in_span: float  # share of the within-class variance that lies in the head's row space: what the softmax sees


@checked(features=floats("B", "d", finite=True), num_classes=whole(1, size="K"), labels=classes("B", "K"))
def class_means(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Mean feature of every class, (K, d) float64; NaN rows for classes without a sample.

    Args:
        features: (B, d). labels: (B,) int64 in 0 … K-1.

    Raises:
        ValueError: shapes that do not fit, features that are not finite. IndexError: a label outside 0 … K-1.
    """
    v = features.detach().double()
    sums = v.new_zeros(num_classes, v.shape[1]).index_add_(0, labels, v)
    return sums / torch.bincount(labels, minlength=num_classes)[:, None]


@checked(**CLASSIFIED)
def neural_collapse(features: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor) -> Collapse:
    """NC1 to NC4 of features under their head, in float64.

    Args:
        features: (B, d). weight: (K, d), K >= 2. bias: (K,) or None. labels: (B,) int64 in 0 … K-1, every class
            present.

    Σ_W is the mean over samples of (v - μ_label)(v - μ_label)ᵀ, Σ_B the mean over classes of (μ_c - μ)(μ_c - μ)ᵀ, and
    μ the mean over classes of μ_c, so that unequal class sizes do not move it. Σ_B⁺ is taken on Σ_B's range (rank at
    most K - 1).

    Raises:
        ValueError: a class without samples, one class, all class means equal, shapes that do not fit, NaN or infinity.
        IndexError: a label outside 0 … K-1.
    """
    num_classes = len(weight)
    means = class_means(features, labels, num_classes)
    empty = means.isnan().any(dim=1)
    if bool(empty.any()):
        raise ValueError(f"labels must have a sample of every class, got none of {empty.nonzero()[:, 0].tolist()[:10]}")
    v, head = features.detach().double(), weight.detach().double()
    spokes = means - means.mean(dim=0)
    if float(spokes.abs().max()) == 0:
        raise ValueError("features must differ between classes: all class means are equal, nothing is spread")
    residual = v - means[labels]
    # With S the spokes Σ_B = SᵀS/K, so Σ_B⁺ = K S⁺S⁺ᵀ and tr(Σ_W Σ_B⁺)/K is the mean over samples of ‖S⁺ᵀ(v - μ_y)‖².
    nc1 = float((residual @ pseudoinverse(means)[0]).pow(2).sum() / len(v))
    length = spokes.norm(dim=1)
    unit = spokes / length[:, None]
    pair = torch.triu_indices(num_classes, num_classes, 1)
    cosines = (unit @ unit.T)[pair[0], pair[1]]
    rows = head - head.mean(dim=0)
    logits = v @ head.T if bias is None else v @ head.T + bias.detach().to(v)
    nearest = torch.cdist(v, means).argmin(dim=1)
    total = float(residual.pow(2).sum())
    seen = float((residual @ row_space(weight).to(v).T).pow(2).sum())
    return Collapse(
        nc1=nc1,
        nc2_norm=float(length.std(correction=0) / length.mean()),
        nc2_angle=float((cosines + 1 / (num_classes - 1)).abs().mean()),
        nc3=float((rows / rows.norm() - spokes / spokes.norm()).norm()),
        nc4=float((logits.argmax(dim=1) != nearest).double().mean()),
        within_in_span=seen / total if total else float("nan"),
    )
