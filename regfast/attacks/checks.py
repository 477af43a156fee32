"""Warnings where an attack's result would mislead: a few evaluations on a few images before the attack begins."""

from __future__ import annotations

import platform
import sys
import warnings
from collections.abc import Collection

import torch
from torch import Tensor, nn

from regfast.attacks.classifier import Model
from regfast.attacks.losses import objective
from regfast.attacks.prepare import training_parts

TRIAL = 1e-3  # length of the step that must raise the loss, in units of images in [0, 1]


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


class ShatteredGradientWarning(AttackWarning):
    """The loss falls along its gradient."""


class MaskedGradientWarning(AttackWarning):
    """An attack without gradients broke what gradient attacks could not."""


class UnsettledWarning(AttackWarning):
    """The last stages of an ensemble broke samples until their end."""


class EpsWarning(AttackWarning):
    """The radius is larger than the whole range of images."""


class OutsideWarning(AttackWarning):
    """An attack left its ball or the box."""


class SlowPrecisionWarning(AttackWarning):
    """The processor has no arithmetic of this precision."""


class GraphWarning(AttackWarning):
    """The model can't be recorded as a CUDA graph."""


class FewClassesWarning(AttackWarning):
    """The loss needs more classes than there are."""


def warn_if_in_train_mode(model: Model) -> None:
    """Warn where the user's `model`, or a part of it, is in train mode."""
    if isinstance(model, nn.Module) and training_parts(model):
        warn(
            TrainModeWarning,
            "the model is in train mode: it is attacked in eval mode (and put back afterwards); call model.eval() "
            "if that is what you mean",
        )


def warn_if_misleading(
    ask: Model,
    images: Tensor,
    labels: Tensor,
    *,
    gradients: bool,
    losses: Collection[str],
    random: bool,
    averages: bool,
) -> None:
    """Warn (`AttackWarning`) about what makes attacks look weaker or models look stronger than they are.

    Costs one forward pass, and where gradients are used one gradient and one pass more.

    Args:
        ask: from images in [0, 1] to logits (B, K).
        images: (n, C, H, W) a few.
        labels: (n,) int64.
        gradients: the attack uses input gradients.
        losses: names of the attack's losses (losses.py).
        random: the model answers at random.
        averages: the attack averages over its answers (EOT), so that they mislead nobody.
    """
    if random and not averages:
        warn(
            RandomizedOutputWarning,
            "the model answers the same images differently each time: a success may be luck and a gradient noise; "
            'average over the randomness with AutoAttack(version="rand")',
        )
    point = images.detach().clone().requires_grad_(gradients)
    with torch.set_grad_enabled(gradients):
        answer = ask(point)
    logits = answer.detach().float()
    _check_probabilities(logits)
    _check_classes(logits.shape[1], losses)
    if gradients and answer.requires_grad:
        name = "ce" if "ce" in losses else "margin"
        label = labels.clamp(0, logits.shape[1] - 1)
        before = objective(name, logits, label, label)
        (gradient,) = torch.autograd.grad(answer, point, before.gradient.to(answer.dtype), materialize_grads=True)
        moving = _check_gradient(gradient.nan_to_num(0.0), name)
        if not random:
            up = (images + TRIAL * gradient.sign()).clamp(0, 1)
            with torch.no_grad():
                after = objective(name, ask(up).float(), label, label)
            _check_way_up(moving, before.loss, after.loss, name)


def warn_if_bf16_is_emulated(device: torch.device) -> None:
    """Warn where bfloat16 costs more than float32: on an x86 processor without AVX512-BF16 and AMX."""
    if device.type == "cpu" and platform.machine() in ("x86_64", "AMD64") and not native_bf16():
        warn(
            SlowPrecisionWarning,
            'precision="bf16": this processor has no bfloat16 arithmetic (AVX512-BF16 or AMX) and emulates it, which '
            'is slower than precision="float32"',
        )


def native_bf16() -> bool:
    """Whether this x86 processor multiplies bfloat16 itself."""
    return any(
        getattr(torch.cpu, name, lambda: False)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )


def _check_probabilities(logits: Tensor) -> None:
    sums = logits.sum(1)
    if logits.shape[1] > 1 and bool((logits >= 0).all()) and bool(((sums - 1).abs() < 1e-4).all()):
        warn(
            ProbabilityOutputWarning,
            "the model's output is a probability distribution: losses expect logits, and a softmax hides their "
            "gradients; return the output before the softmax",
        )


def _check_classes(classes: int, losses: Collection[str]) -> None:
    if classes < 3 and any(loss.startswith("dlr") for loss in losses):
        warn(
            FewClassesWarning,
            f"DLR needs at least 3 classes (4 where targeted) and the model has {classes}: the margin loss takes its "
            "place, with all other classes as targets",
        )


def _check_gradient(gradient: Tensor, loss: str) -> Tensor:
    """(n,) bool: where there is one."""
    moving = (gradient.flatten(1) != 0).any(1)
    dead, count = int((~moving).sum()), len(gradient)
    if dead:
        warn(
            ZeroGradientWarning,
            f"the gradient of the {loss} loss is zero at {dead} of the {count} images looked at: gradient attacks "
            "can't move there, which is no robustness; look for saturated or quantized layers, and trust Square more",
        )
    return moving


def _check_way_up(moving: Tensor, before: Tensor, after: Tensor, loss: str) -> None:
    fell, count = int((moving & (after < before)).sum()), int(moving.sum())
    if fell > count / 4:
        warn(
            ShatteredGradientWarning,
            f"a step of {TRIAL} along the gradient lowers the {loss} loss at {fell} of {count} images: gradients point "
            "nowhere (shattered by rounding, noise or a steep function), which is no robustness; trust Square more",
        )


def warn_if_outside(name: str, count: int) -> None:
    """Warn of points that the attack called `name` brought outside of ball or box."""
    warn(OutsideWarning, f"{name} left its ball or the box with {count} points: they count as no success")


def masked(name: str, broken: int, total: int) -> str:
    """What to say where an attack without gradients broke many of `total` samples that gradients had left, else ""."""
    if broken <= 0.002 * total:  # the reference AutoAttack's threshold
        return ""
    return (
        f"{name}, which uses no gradients, broke {broken} of {total} samples that gradient attacks had left: the model "
        "may mask its gradients, and its true robustness may be lower still"
    )


def unsettled(late: int) -> str:
    """What to say where the last stages of an ensemble broke `late` samples in the second half of their moves."""
    if not late:
        return ""
    return (
        f"{late} of the samples fell in the second half of the last stages' moves: the model may be less robust than "
        "it looks, and longer stages (more steps; standard, where this is AutoAttack's fast) may break more"
    )


def warn(category: type[AttackWarning], text: str) -> None:
    """Warn, where there is a text, at the line that called regfast, however deep inside it we are."""
    if not text:
        return
    package = __name__.partition(".")[0]
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == package:
        level, frame = level + 1, frame.f_back
    warnings.warn(text, category, stacklevel=level)
