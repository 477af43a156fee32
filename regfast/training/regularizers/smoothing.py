"""Label smoothing: Szegedy et al. 2016 (arXiv 1512.00567)."""

from __future__ import annotations

from torch import Tensor

from regfast.targets import SoftTargets, smooth
from regfast.training.regularizers.base import Context, Regularizer, checked_range, register


@register("smoothing")
class Smoothing(Regularizer):
    """A share `smoothing` in [0, 1] of each label is spread over all classes. Raises ValueError outside."""

    label, color, marker = "Label smoothing", "#0072b2", "s"

    def __init__(self, smoothing: float = 0.1):
        self.smoothing = checked_range("smoothing", smoothing, 0, 1)

    def batch(self, images: Tensor, labels: Tensor, context: Context) -> tuple[Tensor, SoftTargets]:
        """Images as they are, smoothed labels."""
        return images, smooth(labels, context.num_classes, self.smoothing)
