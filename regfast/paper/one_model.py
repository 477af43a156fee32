"""What one trained model of the main study is measured for beside the study itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regfast.attacks import APGD
from regfast.calibration import scaling_curves, smooth_ece_interval, smooth_reliability
from regfast.data import ImageSet
from regfast.paper.outputs import Outputs
from regfast.representation import (
    boundary_distance,
    class_centers,
    class_means,
    default_radius,
    fooling_radius,
    predictor_power,
    predictor_scores,
    radius_sensitivity,
)
from regfast.representation.geometry import cosine
from regfast.statistics import partial_correlation
from regfast.training import predict

Array = NDArray[Any]
Rows = list[dict[str, Any]]
HELD = ("norm", "margin", "confidence")  # what a partial correlation holds fixed
_LEAST = 10  # correct samples that a correlation given three others needs


def usual_radius(outputs: Outputs) -> float:
    """The study's radius of v_opt: the median norm of the correct features (of all where none is correct)."""
    correct = outputs.correct
    return default_radius(outputs.features, correct if bool(correct.any()) else torch.ones_like(correct))


def scaling_rows(outputs: Outputs, scales: list[float], bins: int) -> Rows:
    """Rows of scaling.parquet: ECE over the scale of logits and of features."""
    found = scaling_curves(outputs.features, outputs.weight, outputs.bias, outputs.labels, scales, bins=bins)
    return [
        {"kind": kind, "scale": float(s), "ece": float(ece), "nll": float(nll), "changed": float(changed)}
        for kind, curve in found._asdict().items()
        for s, ece, nll, changed in zip(curve.scale, curve.ece, curve.nll, curve.changed, strict=True)
    ]


def smooth_columns(outputs: Outputs) -> dict[str, Array]:
    """Columns of smooth.parquet: the smooth reliability diagram and smECE, with 95 % bootstrap intervals."""
    confidence = outputs.logits.double().softmax(1).amax(1).clamp(max=1)
    curve = smooth_reliability(confidence, outputs.correct)
    error = smooth_ece_interval(confidence, outputs.correct)
    names = ("confidence", "accuracy", "low", "high", "density")
    columns = {name: getattr(curve, name)[1::4] for name in names}  # a quarter of the cells is more than a plot shows
    count = len(columns["confidence"])
    ends = {"error": error.estimate, "error_low": error.low, "error_high": error.high}
    return {**columns, **{name: np.full(count, value) for name, value in ends.items()}}


def radius_rows(outputs: Outputs, radii: list[float]) -> Rows:
    """Rows of radius.parquet: how v_opt turns with its radius, and what that does to the cosine."""
    usual = usual_radius(outputs)
    found = radius_sensitivity(outputs.weight, outputs.bias, [factor * usual for factor in radii])
    correct, labels = outputs.correct, outputs.labels
    rows = []
    for place, factor in enumerate(radii):
        own = cosine(outputs.features.double(), found.points[place][labels])
        for label in range(len(outputs.weight)):
            mine = own[correct & (labels == label)]
            rows.append(
                {
                    "label": label,
                    "radius": float(factor),
                    "angle": float(found.angle[place, label]),
                    "angle_limit": float(found.angle_limit[label]),
                    "cosine": float(mine.mean()) if len(mine) else float("nan"),
                }
            )
    return rows


def boundary_columns(outputs: Outputs) -> dict[str, Array]:
    """Columns of boundary.parquet: exact distance to the nearest boundary, and along the gradient."""
    way = boundary_distance(outputs.features, outputs.weight, outputs.bias, outputs.labels)
    return {
        "sample": np.arange(len(outputs.labels)),
        "label": outputs.labels.numpy(),
        "correct": outputs.correct.numpy(),
        "norm": outputs.features.double().norm(dim=1).numpy(),
        "distance": way.distance.numpy(),
        "gradient_distance": way.gradient_distance.numpy(),
    }


def feature_attack_columns(outputs: Outputs, steps: int) -> dict[str, Array]:
    """Columns of feature_attack.parquet: the least radius at which each attack on the feature succeeds.

    `exact`: the strongest attack there is; `straight`: one step along the cross-entropy gradient; `cross_entropy` and
    `margin`: multi-step PGD.
    """
    head = (outputs.features, outputs.weight, outputs.bias, outputs.labels)
    way = boundary_distance(*head)
    return {
        "sample": np.arange(len(outputs.labels)),
        "label": outputs.labels.numpy(),
        "correct": outputs.correct.numpy(),
        "norm": outputs.features.double().norm(dim=1).numpy(),
        "exact": way.distance.numpy(),
        "straight": way.gradient_distance.numpy(),
        "cross_entropy": fooling_radius(*head, steps=steps).numpy(),
        "margin": fooling_radius(*head, steps=steps, objective="margin").numpy(),
    }


def predictor_rows(outputs: Outputs, train: ImageSet, success: Mapping[str, Array]) -> Rows:
    """Rows of predictors.parquet for this model: which clean measure foretells surviving each attack.

    `success`: per attack id whether it flipped each test image. `lead` is a measure's AUC minus that of v_opt's cosine,
    on the same resamples. `partial` correlates a measure's rank with surviving,
    given norm, margin and confidence (those of them that it is not itself).
    """
    train_features, _, train_labels = predict(outputs.model, train)
    means = class_means(train_features, train_labels, len(outputs.weight))
    centers = class_centers(outputs.weight, outputs.bias, radius=usual_radius(outputs))
    keep = outputs.correct
    scores = predictor_scores(
        outputs.features[keep], outputs.weight, outputs.bias, outputs.labels[keep], centers, means
    )
    names = scores._fields
    rows: Rows = []
    for attack, flipped in success.items():
        survived = ~flipped[keep.numpy()]
        if len(survived) < _LEAST:
            nothing = {"value": np.nan, "low": np.nan, "high": np.nan}
            rows += [
                {"attack": attack, "predictor": name, "measure": measure, **nothing}
                for measure in ("auc", "lead", "partial")
                for name in names
                if (measure, name) != ("lead", "v_opt")
            ]
            continue
        power = predictor_power(scores, survived)
        for name in names:
            given = np.stack([getattr(scores, other) for other in HELD if other != name], axis=1)
            left = partial_correlation(getattr(scores, name), survived, given, resamples=1000)
            lead = [] if name == "v_opt" else [("lead", power[name].over_v_opt)]
            for measure, found in (("auc", power[name].auc), *lead, ("partial", left)):
                rows.append(
                    {
                        "attack": attack,
                        "predictor": name,
                        "measure": measure,
                        "value": float(found.estimate),
                        "low": float(found.low),
                        "high": float(found.high),
                    }
                )
    return rows


def objective_rows(
    outputs: Outputs, images: Tensor, *, norm: str, eps: float, steps: int, targets: int, seed: int
) -> Rows:
    """Rows of objectives.parquet: APGD with cross-entropy, DLR, and targeted DLR at the same radius and step count."""
    attacks = {
        "cross-entropy": APGD(norm, eps, steps),
        "DLR": APGD(norm, eps, steps, loss="dlr"),
        "targeted DLR": APGD(norm, eps, steps, loss="dlr", targets=targets),
    }
    return [
        {"objective": name, "asr": attack.run(outputs.model, images, outputs.labels, seed=seed).success_rate}
        for name, attack in attacks.items()
    ]
