"""A right call of every public function, from fresh random input: what the fuzz test spoils, an argument at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

import regfast
from regfast import attacks, calibration, representation, targets

Call = Callable[[torch.Generator], tuple[Callable[..., Any], dict[str, Any]]]
CALLS: dict[str, Call] = {}
N, K, D = 12, 4, 6  # rows, classes, features


def floats(g: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=g)


def classes(g: torch.Generator, count: int = N) -> Tensor:
    return torch.cat([torch.arange(K), torch.randint(K, (count - K,), generator=g)])  # none is missing


def probabilities(g: torch.Generator, *shape: int) -> Tensor:
    return floats(g, *shape).softmax(-1)


def call(module: Any, name: str, **made: Callable[[torch.Generator], Any]) -> None:
    """`module.name` with arguments that each come from a generator."""
    function = getattr(module, name)
    key = f"{module.__name__.rpartition('.')[2]}.{name}"
    CALLS[key] = lambda g: (function, {argument: make(g) for argument, make in made.items()})


def logits(g: torch.Generator) -> Tensor:
    return floats(g, N, K)


def features(g: torch.Generator) -> Tensor:
    return floats(g, N, D)


def weight(g: torch.Generator) -> Tensor:
    return floats(g, K, D)


def bias(g: torch.Generator) -> Tensor:
    return floats(g, K)


def confidence(g: torch.Generator) -> Tensor:
    return probabilities(g, N, K).amax(1)


def right(g: torch.Generator) -> Tensor:
    return torch.cat([torch.tensor([True, False]), torch.rand(N - 2, generator=g) < 0.5])


def images(g: torch.Generator) -> Tensor:
    return torch.rand(N, 1, 5, 5, generator=g)


def always(value: Any) -> Callable[[torch.Generator], Any]:
    return lambda g: value


LOSS: dict[str, Callable[[torch.Generator], Any]] = {
    "reduction": always("mean"),
    "label_smoothing": lambda g: float(torch.rand((), generator=g)),
    "class_weight": lambda g: torch.rand(K, generator=g) + 0.1,
    "sample_weight": lambda g: torch.rand(N, generator=g),
    "ignore_index": always(-100),
}
call(regfast, "soft_cross_entropy", logits=logits, target=classes, **LOSS)
call(regfast, "soft_cross_entropy_stats", logits=logits, target=lambda g: probabilities(g, N, K), features=features,
     centers=weight, **LOSS)  # fmt: skip
call(regfast, "linear_soft_cross_entropy", features=features, weight=weight, bias=bias, target=classes, **LOSS)
call(regfast, "feature_stats", features=features, centers=weight, labels=classes, predictions=classes,
     ignore_index=always(-100))  # fmt: skip

call(targets, "SoftTargets", first=classes, second=classes, lam=lambda g: torch.rand(N, generator=g),
     smoothing=always(0.1), num_classes=always(K))  # fmt: skip
call(targets, "smooth", labels=classes, num_classes=always(K), smoothing=always(0.1))
for _name in ("mixup", "cutmix"):
    call(targets, _name, images=images, labels=classes, num_classes=always(K), alpha=always(1.0),
         smoothing=always(0.1), generator=lambda g: g)  # fmt: skip
for _name in ("MixUp", "CutMix"):
    call(targets, _name, num_classes=always(K), alpha=always(1.0), smoothing=always(0.1), generator=lambda g: g)

for _name in ("expected_calibration_error", "adaptive_calibration_error", "reliability_bins"):
    call(calibration, _name, confidence=confidence, correct=right, bins=always(10))
for _name in ("smooth_calibration_error",):
    call(calibration, _name, confidence=confidence, correct=right)
call(calibration, "ece_interval", confidence=confidence, correct=right, bins=always(10), level=always(0.9),
     resamples=always(20), seed=always(0))  # fmt: skip
for _name in ("smooth_ece_interval", "smooth_reliability"):
    call(calibration, _name, confidence=confidence, correct=right, level=always(0.9), resamples=always(20),
         seed=always(0))  # fmt: skip
for _name in ("brier_score", "brier_scores", "classwise_calibration_error"):
    call(calibration, _name, probabilities=lambda g: probabilities(g, N, K), labels=classes)
for _name in ("negative_log_likelihood", "negative_log_likelihoods", "fit_temperature"):
    call(calibration, _name, logits=logits, labels=classes)
call(calibration, "apply_temperature", logits=logits, temperature=always(1.5))
call(calibration, "fit_feature_scale", features=features, weight=weight, bias=bias, labels=classes)
call(calibration, "scale_features", features=features, weight=weight, bias=bias, scale=always(0.5))
call(calibration, "scaling_curves", features=features, weight=weight, bias=bias, labels=classes,
     scales=always([0.5, 1.0]), bins=always(10))  # fmt: skip

HEAD: dict[str, Callable[[torch.Generator], Any]] = {"features": features, "weight": weight, "bias": bias}
for _name in ("boundary_distance", "snapshot", "neural_collapse"):
    call(representation, _name, **HEAD, labels=lambda g: classes(g, N))
call(representation, "feature_attack", **HEAD, labels=classes, eps=always(0.5), steps=always(3))
call(representation, "fooling_radius", **HEAD, labels=classes, steps=always(2), halvings=always(2))
call(representation, "class_centers", weight=weight, bias=bias, radius=always(1.0), tolerance=always(1e-3),
     max_iterations=always(500))  # fmt: skip
call(representation, "class_means", features=features, labels=classes, num_classes=always(K))
call(representation, "confidence_contours", weight=lambda g: floats(g, K, 2), bias=bias,
     x=always(torch.linspace(-1, 1, 4)), y=always(torch.linspace(-1, 1, 3)))  # fmt: skip
call(representation, "gradient_field", weight=lambda g: floats(g, K, 2), bias=bias, label=always(1),
     x=always(torch.linspace(-1, 1, 4)), y=always(torch.linspace(-1, 1, 3)))  # fmt: skip
call(representation, "counterfactual", directions=features, norms=features, weight=weight, bias=bias, labels=classes,
     eps=always(0.5), steps=always(2), bins=always(5))  # fmt: skip
call(representation, "default_radius", features=features, correct=right)
call(representation, "feature_displacement", clean=features, attacked=features)
call(representation, "feature_geometry", features=features, weight=weight, centers=weight, labels=classes,
     predictions=classes)  # fmt: skip
for _name in ("max_margin_direction", "row_space"):
    call(representation, _name, weight=weight)
for _name in ("small_radius_direction", "turning_smoothing"):
    call(representation, _name, weight=weight, bias=bias)
call(representation, "radius_sensitivity", weight=weight, bias=bias, radii=always([0.5, 1.0]))
call(representation, "simplex_etf", num_classes=always(K), dim=always(D), weight_norm=always(1.0))
call(representation, "smoothed_targets", num_classes=always(K), smoothing=always(0.1), labels=classes)
call(representation, "swap_norms", directions=features, norms=features)
call(representation, "theorem1", weight=weight, bias=bias, smoothing=always([0.0, 0.1]), ridge=always(0.01))

BALL: dict[str, Callable[[torch.Generator], Any]] = {"norm": always("linf"), "eps": always(0.1)}
call(attacks, "FGSM", **BALL)
call(attacks, "PGD", **BALL, steps=always(3), restarts=always(1), step_size=always(0.02), momentum=always(0.5),
     loss=always("ce"), random_start=always(True))  # fmt: skip
call(attacks, "APGD", **BALL, steps=always(3))
call(attacks, "FAB", **BALL, steps=always(3))
call(attacks, "Square", **BALL, steps=always(3))
call(attacks, "AutoAttack", **BALL, version=always("fast"))
call(attacks, "DDN", steps=always(3))
call(attacks, "FMN", norm=always("l2"), steps=always(3))


def spoiled(value: Any, how: str) -> Any:
    """`value` made wrong, or only unusual, in one of the ways of `TENSOR_WAYS` and `OTHER_WAYS`."""
    if isinstance(value, Tensor) and how in TENSOR_WAYS:
        return TENSOR_WAYS[how](value)
    return OTHER_WAYS[how]


def _with(value: float) -> Callable[[Tensor], Tensor]:
    def change(tensor: Tensor) -> Tensor:
        changed = tensor.clone().double() if not tensor.is_floating_point() else tensor.clone()
        changed.view(-1)[:1] = value
        return changed

    return change


def _gapped(tensor: Tensor) -> Tensor:
    wide = torch.zeros(*tensor.shape[:-1], tensor.shape[-1] * 2, dtype=tensor.dtype)
    wide[..., ::2] = tensor
    return wide[..., ::2]


TENSOR_WAYS: dict[str, Callable[[Tensor], Any]] = {
    "empty": lambda t: t[:0],
    "one more dimension": lambda t: t[None],
    "a row less": lambda t: t[:-1],
    "a column less": lambda t: t[..., :-1],
    "0-d": lambda t: t.reshape(-1)[0],
    "float64": lambda t: t.double(),
    "float16": lambda t: t.half(),
    "int32": lambda t: t.int(),
    "uint8": lambda t: t.float().abs().to(torch.uint8),
    "bool": lambda t: t > 0,
    "complex": lambda t: t.to(torch.complex64),
    "NaN": _with(float("nan")),
    "inf": _with(float("inf")),
    "-inf": _with(float("-inf")),
    "huge": _with(1e30),
    "negative": lambda t: -t.float().to(t.dtype if t.dtype != torch.bool else torch.float32) - 1,
    "numpy": lambda t: t.detach().numpy(),
    "list": lambda t: t.tolist(),
    "meta": lambda t: t.to("meta"),
    "sparse": lambda t: t.to_sparse(),
    "expanded": lambda t: t[:1].expand_as(t),
    "gapped": _gapped,
    "needs a gradient": lambda t: t.float().requires_grad_(),
}
OTHER_WAYS: dict[str, Any] = {
    "None": None,
    "text": "many",
    "a number": 0.3,
    "zero": 0,
    "minus one": -1,
    "nan": float("nan"),
    "infinite": float("inf"),
    "2**70": 2**70,
    "true": True,
    "numpy float": np.float32(0.5),
    "numpy integer": np.int64(3),
    "0-d tensor": torch.tensor(0.5),
    "0-d integer": torch.tensor(3),
    "complex number": 1j,
    "a list": [1, 2],
    "a mapping": {"a": 1},
    "an object": object(),
}
