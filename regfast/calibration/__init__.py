"""Calibration: binned errors, proper scores, temperature and feature scaling. Tensors or arrays in, numbers out."""

from regfast.calibration.bins import (
    ReliabilityBins,
    adaptive_calibration_error,
    adaptive_ece_statistic,
    classwise_calibration_error,
    classwise_ece_statistic,
    ece_interval,
    ece_statistic,
    expected_calibration_error,
    reliability_bins,
)
from regfast.calibration.scaling import apply_temperature, fit_feature_scale, fit_temperature, scale_features
from regfast.calibration.scaling_curves import ScalingCurve, ScalingCurves, scaling_curves
from regfast.calibration.scores import (
    brier_score,
    brier_scores,
    negative_log_likelihood,
    negative_log_likelihoods,
)
from regfast.calibration.smooth import (
    SmoothReliability,
    smooth_calibration_error,
    smooth_ece_interval,
    smooth_reliability,
)

__all__ = [
    "ReliabilityBins",
    "ScalingCurve",
    "ScalingCurves",
    "SmoothReliability",
    "adaptive_calibration_error",
    "adaptive_ece_statistic",
    "apply_temperature",
    "brier_score",
    "brier_scores",
    "classwise_calibration_error",
    "classwise_ece_statistic",
    "ece_interval",
    "ece_statistic",
    "expected_calibration_error",
    "fit_feature_scale",
    "fit_temperature",
    "negative_log_likelihood",
    "negative_log_likelihoods",
    "reliability_bins",
    "scale_features",
    "scaling_curves",
    "smooth_calibration_error",
    "smooth_ece_interval",
    "smooth_reliability",
]
