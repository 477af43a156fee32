"""Magnitude alone: what soft labels do to the norm of features, without soft labels."""

from __future__ import annotations

from torch import Tensor

from regfast.functional import Target
from regfast.training.regularizers.base import Context, Regularizer, checked_range, register


@register("rms-penalty")
class RMSPenalty(Regularizer):
    """Cross-entropy, plus `strength` ≥ 0 times the mean square of the features' RMS.

    Soft labels shrink features and turn them (arXiv 2410.03999); this one only shrinks them: its gradient on a feature
    points to the origin.
    """

    label, proper = "RMS penalty", True

    def __init__(self, strength: float = 0.1):
        self.strength = checked_range("strength", strength, 0)

    def loss(self, logits: Tensor, target: Target, features: Tensor, context: Context) -> Tensor:
        """Cross-entropy and the penalty."""
        loss, stats = context.cross_entropy(logits, target, features)
        return loss + self.strength * stats.rms.square().mean()
