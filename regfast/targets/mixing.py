"""`mixup` and `cutmix`: a batch mixed with itself, rolled by one as torchvision does, with one λ a batch."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any, TypeAlias

import torch
from torch import Tensor

from regfast.targets.soft_targets import (
    SoftTargets,
    check_dense,
    check_num_classes,
    class_labels,
    looks_at,
    shape_of,
)

__all__ = ["cutmix", "mixup"]

Box: TypeAlias = "tuple[Any, Any, Any, Any]"  # top, bottom, left, right: whole numbers, or 0-d tensors


def mixup(
    images: Tensor,
    labels: Tensor,
    num_classes: int,
    alpha: float = 1.0,
    *,
    smoothing: float = 0.0,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, SoftTargets]:
    """Mixup of each image with the one before it (the first with the last), one λ ~ Beta(alpha, alpha) a batch.

    Args:
        images: (B, …) floating; left as they are.
        labels: (B,) int64 or uint8 classes; negative ones are an `ignore_index`.
        num_classes: K.
        alpha: > 0.
        smoothing: label smoothing s on top, in [0, 1].
        generator: where λ is drawn, as it stands (in a DataLoader's worker: `MixUp`); torch's default one if None.

    Returns:
        `λ images + (1 - λ) images.roll(1)` and the targets. λ is a Python number, or a 0-d tensor on the generator's
        device when that is no CPU: no draw makes the host wait for a device.

    Raises:
        TypeError, ValueError: for images or labels of the wrong type, shape or size, or alpha ≤ 0.
        IndexError: a label of num_classes or more, on CPU.

    >>> images, target = mixup(torch.rand(8, 3, 32, 32), torch.arange(8), num_classes=10, alpha=0.2)
    """
    check_images(images, labels, 1, floating=True)
    lam = beta(alpha, generator)
    return mix_images(images, lam), mix_labels(labels, labels.roll(1, 0), lam, smoothing, num_classes)


def cutmix(
    images: Tensor,
    labels: Tensor,
    num_classes: int,
    alpha: float = 1.0,
    *,
    smoothing: float = 0.0,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, SoftTargets]:
    """CutMix: a box of the image before each one (the first: the last) is pasted over it, one box a batch.

    The box has the share 1 - λ of the image, λ ~ Beta(alpha, alpha), around a uniform center; λ in the targets is
    corrected for what of the box lies inside the image, in whole pixels.

    Args:
        images: (B, …, H, W) of any type; left as they are.
        labels, num_classes, alpha, smoothing, generator: as in `mixup`.

    Returns:
        The images and the targets, λ as in `mixup`.

    Raises:
        TypeError, ValueError, IndexError: as `mixup`.

    >>> images, target = cutmix(torch.rand(8, 3, 32, 32), torch.arange(8), num_classes=10)
    >>> loss = regfast.soft_cross_entropy(torch.zeros(8, 10), target)
    """
    check_images(images, labels, 3)
    box, lam = draw_box(images.shape[-2], images.shape[-1], alpha, generator)
    return paste(images, box), mix_labels(labels, labels.roll(1, 0), lam, smoothing, num_classes)


def mix_images(images: Tensor, lam: float | Tensor) -> Tensor:
    """`λ images + (1 - λ) images.roll(1)`."""
    return images.roll(1, 0).lerp_(images, lam.to(images) if isinstance(lam, Tensor) else lam)


def draw_box(height: int, width: int, alpha: float, generator: torch.Generator | None) -> tuple[Box, float | Tensor]:
    """A box of the share 1 - λ about, and λ exactly; tensors where `beta` gives one."""
    half = 0.5 * (1.0 - beta(alpha, generator)) ** 0.5
    top, bottom = _extent(height, half, generator)
    left, right = _extent(width, half, generator)
    return (top, bottom, left, right), 1.0 - (bottom - top) * (right - left) / (height * width)


def paste(images: Tensor, box: Box) -> Tensor:
    """`images` (B, …, H, W) with the box of the image before each one."""
    top, bottom, left, right = box
    if not isinstance(top, Tensor):
        mixed = images.clone()
        mixed[..., top:bottom, left:right] = images[..., top:bottom, left:right].roll(1, 0)
        return mixed
    rows, columns = (torch.arange(size, device=top.device) for size in images.shape[-2:])
    inside = ((rows >= top) & (rows < bottom)).unsqueeze(1) & (columns >= left) & (columns < right)
    return torch.where(inside.to(images.device), images.roll(1, 0), images)


def mix_labels(
    first: Tensor, second: Tensor, lam: float | Tensor, smoothing: float | Tensor, num_classes: int
) -> SoftTargets:
    """The targets `lam` first + (1 - lam) second; a class without a share gives way, so that it is ignored nowhere."""
    check_num_classes(num_classes)
    first, second = class_labels("labels", first), class_labels("labels", second)
    if first.dim() != 1:
        raise ValueError(f"labels must have shape (B,), got {shape_of(first)}")
    if looks_at(first) and bool((first >= num_classes).any()):
        raise IndexError(f"labels must be below num_classes, {num_classes}, got {int(first.max())}")
    if isinstance(lam, Tensor):
        lam = lam.to(first.device)
        first, second = torch.where(lam == 0, second, first), torch.where(lam == 1, first, second)
    else:
        first, second = second if lam == 0 else first, first if lam == 1 else second
    return SoftTargets(first, second, lam, smoothing, num_classes=num_classes)


def beta(alpha: float, generator: torch.Generator | None) -> Any:
    """One draw of Beta(alpha, alpha): a number, or a 0-d float64 tensor on the generator's device if that is no CPU.

    A ratio of gammas taken in logs, so that a tiny alpha does not give 0/0.
    """
    check_alpha(alpha)
    check_generator(generator)
    alpha = float(alpha)
    device = "cpu" if generator is None else generator.device
    shape = torch.full((2,), alpha + 1.0, dtype=torch.float64, device=device)
    gammas = torch._standard_gamma(shape, generator=generator)
    uniform = torch.rand(2, dtype=torch.float64, device=device, generator=generator)
    logs = gammas.log() + uniform.log() / alpha
    return _number(torch.sigmoid(logs[0] - logs[1]).nan_to_num(0.5))


def _extent(size: int, half: Any, generator: torch.Generator | None) -> tuple[Any, Any]:
    """Begin and end of an interval of length 2·half·size around a uniform pixel, clipped to [0, size]."""
    device = "cpu" if generator is None else generator.device
    center = _number(torch.randint(size, (), device=device, generator=generator))
    if isinstance(center, Tensor):
        reach = (half * size).long()
        return (center - reach).clamp(min=0), (center + reach).clamp(max=size)
    reach = int(half * size)
    return max(center - reach, 0), min(center + reach, size)


def _number(drawn: Tensor) -> Any:
    """A Python number where reading it costs nothing."""
    return drawn.item() if looks_at(drawn) else drawn


def check_alpha(alpha: float) -> None:
    """TypeError, ValueError unless 0 < alpha < ∞."""
    if not isinstance(alpha, Real):
        raise TypeError(f"alpha must be a number, got {alpha!r}")
    if not 0 < alpha < math.inf:
        raise ValueError(f"alpha must be positive and finite, got {alpha}")


def check_generator(generator: torch.Generator | None) -> None:
    """TypeError unless it is a `torch.Generator` or None."""
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator or None, got {type(generator).__name__}")


def check_images(images: Tensor, labels: Tensor, least_dims: int, *, floating: bool = False) -> None:
    """Error unless `images` is a (floating) tensor, and `labels` one of as many rows."""
    for name, tensor in (("images", images), ("labels", labels)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(tensor).__name__}")
        check_dense(name, tensor)
    if floating and not images.is_floating_point():
        raise TypeError(f"images must be a floating tensor, got {images.dtype}")
    if images.dim() < least_dims:
        raise ValueError(f"images must have {least_dims} dimensions or more, got shape {shape_of(images)}")
    if not labels.dim() or len(images) != len(labels):
        raise ValueError(f"images and labels must have as many rows, got {shape_of(images)} and {shape_of(labels)}")
