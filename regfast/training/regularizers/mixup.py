"""Mixup: Zhang et al. 2018 (arXiv 1710.09412)."""

from __future__ import annotations

from torch import Tensor

from regfast.targets import SoftTargets, mixup
from regfast.training.regularizers.base import Context, Regularizer, checked_range, register


@register("mixup")
class Mixup(Regularizer):
    """Pairs of images and labels are averaged with one λ ~ Beta(alpha, alpha) a batch. ValueError unless alpha > 0."""

    label, proper, color, marker = "Mixup", True, "#d55e00", "^"

    def __init__(self, alpha: float = 1.0):
        self.alpha = checked_range("alpha", alpha, 0, open_low=True)

    def batch(self, images: Tensor, labels: Tensor, context: Context) -> tuple[Tensor, SoftTargets]:
        """Mixed images and their targets."""
        return mixup(images, labels, context.num_classes, self.alpha, generator=context.generator)
