"""Representation space: class centers, the geometry of features around them, and what an attack does to it."""

from regfast.representation.boundary import BoundaryDistance, boundary_distance
from regfast.representation.centers import ClassCenters, class_centers
from regfast.representation.collapse import Collapse, class_means, neural_collapse
from regfast.representation.counterfactual import Counterfactual, counterfactual, swap_norms
from regfast.representation.displacement import Displacement, feature_displacement
from regfast.representation.feature_attack import FeatureAttack, feature_attack
from regfast.representation.feature_robustness import fooling_radius
from regfast.representation.geometry import Geometry, default_radius, feature_geometry
from regfast.representation.plane import Contours, GradientField, confidence_contours, gradient_field
from regfast.representation.predictors import PredictorPower, Predictors, predictor_power, predictor_scores
from regfast.representation.sensitivity import (
    RadiusSensitivity,
    max_margin_direction,
    radius_sensitivity,
    small_radius_direction,
)
from regfast.representation.snapshot import snapshot
from regfast.representation.soft_minimizer import free_minimizer, smoothed_targets, soft_minimizer
from regfast.representation.span import row_space
from regfast.representation.theorem1 import Theorem1, etf_minimizer_norm, simplex_etf, theorem1, turning_smoothing

__all__ = [
    "BoundaryDistance",
    "ClassCenters",
    "Collapse",
    "Contours",
    "Counterfactual",
    "Displacement",
    "FeatureAttack",
    "Geometry",
    "GradientField",
    "PredictorPower",
    "Predictors",
    "RadiusSensitivity",
    "Theorem1",
    "boundary_distance",
    "class_centers",
    "class_means",
    "confidence_contours",
    "counterfactual",
    "default_radius",
    "etf_minimizer_norm",
    "feature_attack",
    "feature_displacement",
    "feature_geometry",
    "fooling_radius",
    "free_minimizer",
    "gradient_field",
    "max_margin_direction",
    "neural_collapse",
    "predictor_power",
    "predictor_scores",
    "radius_sensitivity",
    "row_space",
    "simplex_etf",
    "small_radius_direction",
    "smoothed_targets",
    "snapshot",
    "soft_minimizer",
    "swap_norms",
    "theorem1",
    "turning_smoothing",
]
