"""Direction alone: features turned toward their class centers, without soft labels."""

from __future__ import annotations

from torch import Tensor

from regfast.functional import Target
from regfast.training.regularizers.base import Context, Regularizer, checked_range, register


@register("cosine-reward")
class CosineReward(Regularizer):
    """Cross-entropy, minus `strength` ≥ 0 times the mean cosine of the features to the center of their class.

    Soft labels shrink features and turn them (arXiv 2410.03999); this one only turns them: its gradient on a feature is
    across it. The centers are those of the head after the last epoch.
    """

    label = "Cosine reward"

    def __init__(self, strength: float = 0.1):
        self.strength = checked_range("strength", strength, 0)

    def loss(self, logits: Tensor, target: Target, features: Tensor, context: Context) -> Tensor:
        """Cross-entropy less the reward."""
        loss, stats = context.cross_entropy(logits, target, features)
        return loss - self.strength * stats.cosine.mean()
