"""CutMix: Yun et al. 2019 (arXiv 1905.04899)."""

from __future__ import annotations

from torch import Tensor

from regfast.targets import SoftTargets, cutmix
from regfast.training.regularizers.base import Context, Regularizer, checked_range, register


@register("cutmix")
class CutMix(Regularizer):
    """A box of another image is pasted in, of area 1 - λ, λ ~ Beta(alpha, alpha). ValueError unless alpha > 0."""

    label, proper, color, marker = "CutMix", True, "#009e73", "D"

    def __init__(self, alpha: float = 1.0):
        self.alpha = checked_range("alpha", alpha, 0, open_low=True)

    def batch(self, images: Tensor, labels: Tensor, context: Context) -> tuple[Tensor, SoftTargets]:
        """Images with pasted boxes and their targets, λ as the box really is."""
        return cutmix(images, labels, context.num_classes, self.alpha, generator=context.generator)
