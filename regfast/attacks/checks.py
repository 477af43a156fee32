"""Warnings where an attack's result would mislead: a few evaluations on a few images before the attack begins."""

from __future__ import annotations

import platform
import sys
import warnings
from collections.abc import Collection

import torch
from torch import Tensor, nn

from regfast.attacks.losses import objective
from regfast.attacks.prepare import Model, frozen

SAMPLES = 8  # images looked at; their range is checked on all


class AttackWarning(UserWarning):
    """The attack's result may not mean what it seems to."""


class TrainModeWarning(AttackWarning):
    """The model, or a part of it, is in train mode."""


class RandomizedOutputWarning(AttackWarning):
    """The model answers the same images differently."""


class ZeroGradientWarning(AttackWarning):
    """The loss has no gradient at some images."""


class ProbabilityOutputWarning(AttackWarning):
    """The model's output looks like probabilities, not logits."""


class ImageRangeWarning(AttackWarning):
    """Images leave [0, 1]."""


class SlowPrecisionWarning(AttackWarning):
    """The processor has no arithmetic of this precision."""


class FewClassesWarning(AttackWarning):
    """The loss needs more classes than there are."""


def warn_if_misleading(
    model: Model, images: Tensor, labels: Tensor, *, gradients: bool, losses: Collection[str], averages: bool = False
) -> None:
    """Warn (`AttackWarning`) about what makes attacks look weaker or models look stronger than they are.

    Costs two forward passes and one gradient on at most eight images.

    Args:
        model: any callable from images to logits (B, K), in the mode in which the user gave it.
        images: (N, C, H, W) on any device.
        labels: (N,) int64.
        gradients: the attack uses input gradients.
        losses: names of the attack's losses (losses.py).
        averages: the attack averages over a model's random answers (EOT), so that they mislead nobody.
    """
    if len(images) == 0:
        return
    low, high = images.aminmax()
    if low < 0 or high > 1:
        _warn(
            ImageRangeWarning,
            f"images range over [{low:.3g}, {high:.3g}], but attacks keep to [0, 1] and eps is measured there: pass "
            "images in [0, 1] and put the normalisation into the model",
        )
    images, labels = images[:SAMPLES], labels[:SAMPLES]
    if isinstance(model, nn.Module):
        tensors = (*model.parameters(), *model.buffers())
        images = images.to(tensors[0].device) if tensors else images
        if any(module.training for module in model.modules()):
            _warn(
                TrainModeWarning,
                "the model is in train mode: it is attacked in eval mode (and put back afterwards); call model.eval() "
                "if that is what you mean",
            )
    with frozen(model), torch.inference_mode(False):
        with torch.no_grad():
            first = model(images).float()
        point = images.detach().clone().requires_grad_(gradients)
        with torch.set_grad_enabled(gradients):
            logits = model(point)
        second = logits.detach().float()
        if second.ndim != 2:
            raise ValueError(f"model must give logits of shape (B, K), got {tuple(second.shape)}")
        if not averages:
            _check_randomness(first, second)
        _check_probabilities(second)
        _check_classes(second.shape[1], losses)
        if gradients and logits.requires_grad:
            name = "ce" if "ce" in losses else "margin"
            at = labels.to(second.device).clamp(0, second.shape[1] - 1)
            slope = objective(name, second, at, at).gradient.to(logits.dtype)
            (gradient,) = torch.autograd.grad(logits, point, slope, materialize_grads=True)
            _check_gradient(gradient, name)


def warn_if_bf16_is_emulated(device: torch.device) -> None:
    """Warn where bfloat16 costs more than float32: on an x86 processor without AVX512-BF16 and AMX."""
    if device.type == "cpu" and platform.machine() in ("x86_64", "AMD64") and not native_bf16():
        _warn(
            SlowPrecisionWarning,
            'precision="bf16": this processor has no bfloat16 arithmetic (AVX512-BF16 or AMX) and emulates it, which '
            'is slower than precision="float32"',
        )


def native_bf16() -> bool:
    """Whether this x86 processor multiplies bfloat16 itself."""
    return any(
        getattr(torch.cpu, name, lambda: False)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )


def _check_randomness(first: Tensor, second: Tensor) -> None:
    if not torch.allclose(first, second, rtol=0.0, atol=1e-4 * float(second.abs().amax()), equal_nan=True):
        _warn(
            RandomizedOutputWarning,
            "the model answers the same images differently each time: a success may be luck and a gradient noise; "
            'average over the randomness with AutoAttack(version="rand")',
        )


def _check_probabilities(logits: Tensor) -> None:
    sums = logits.sum(1)
    if logits.shape[1] > 1 and bool((logits >= 0).all()) and bool(((sums - 1).abs() < 1e-4).all()):
        _warn(
            ProbabilityOutputWarning,
            "the model's output is a probability distribution: losses expect logits, and a softmax hides their "
            "gradients; return the output before the softmax",
        )


def _check_classes(classes: int, losses: Collection[str]) -> None:
    if classes < 3 and any(loss.startswith("dlr") for loss in losses):
        _warn(
            FewClassesWarning,
            f"DLR needs at least 3 classes (4 where targeted) and the model has {classes}: the margin loss takes its "
            "place, with all other classes as targets",
        )


def _check_gradient(gradient: Tensor, loss: str) -> None:
    dead, count = int((gradient.flatten(1) == 0).all(1).sum()), len(gradient)
    if dead:
        _warn(
            ZeroGradientWarning,
            f"the gradient of the {loss} loss is zero at {dead} of the {count} images looked at: gradient attacks "
            "can't move there, which is no robustness; look for saturated or quantised layers, and trust Square more",
        )


def _warn(category: type[AttackWarning], text: str) -> None:
    """Warn at the line that called regfast, however deep inside it we are."""
    package = __name__.partition(".")[0]
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == package:
        level, frame = level + 1, frame.f_back
    warnings.warn(text, category, stacklevel=level)
