"""Every geometric measure of a model at one moment, as numbers: one row of a training trajectory."""

from __future__ import annotations

import math

from torch import Tensor

from regfast.checks import checked, number, optional
from regfast.representation.boundary import boundary_distance
from regfast.representation.centers import class_centers
from regfast.representation.collapse import neural_collapse
from regfast.representation.geometry import default_radius, feature_geometry
from regfast.representation.span import CLASSIFIED


@checked(
    **CLASSIFIED,
    radius=optional(number(0, above=True)),
)
def snapshot(
    features: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, *, radius: float | None = None
) -> dict[str, float]:
    """Accuracy, geometry, boundary distances and neural collapse of features under their head.

    Args:
        features: (B, d), weight: (K, d), bias: (K,) or None, labels: (B,) int64, every class present.
        radius: of the class centers; default `default_radius`, or all features' median norm where none is correct.

    Returns:
        ``accuracy``, ``radius``; means over samples of ``rms, rms_in_span, rms_out_of_span, cosine, cosine_predicted,
        cosine_in_span, share_in_span``; medians over the correct samples of ``distance`` and ``gradient_distance`` to
        the boundary (NaN where none is correct); ``nc1, nc2_norm, nc2_angle, nc3, nc4, within_in_span``.

    Raises:
        ValueError: a class without samples, shapes that do not fit. IndexError: a label out of range.

    >>> labels = torch.arange(20) % 4
    >>> features = torch.randn(20, 8) + 5 * torch.eye(4, 8)[labels]
    >>> found = snapshot(features, torch.eye(4, 8), None, labels)
    >>> list(found)[:3]
    ['accuracy', 'radius', 'rms']
    """
    collapse = neural_collapse(features, weight, bias, labels)
    way = boundary_distance(features, weight, bias, labels)
    logits = features.detach().double() @ weight.detach().double().T
    prediction = (logits if bias is None else logits + bias.detach().double()).argmax(dim=1)
    correct = prediction == labels
    found = bool(correct.any())
    if radius is None:
        radius = default_radius(features, correct)
    centers = class_centers(weight, bias, radius=radius)
    geometry = feature_geometry(features, weight, centers, labels, prediction)
    return {
        "accuracy": float(correct.double().mean()),
        "radius": radius,
        **{name: float(value.mean()) for name, value in geometry._asdict().items()},
        "rms_out_of_span": float((geometry.rms**2 - geometry.rms_in_span**2).clamp(min=0).sqrt().mean()),
        "distance": float(way.distance[correct].median()) if found else math.nan,
        "gradient_distance": float(way.gradient_distance[correct].median()) if found else math.nan,
        **collapse._asdict(),
    }
