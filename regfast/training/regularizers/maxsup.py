"""MaxSup: Zhou et al. 2025 (arXiv 2502.15798)."""

from __future__ import annotations

from torch import Tensor

from regfast.functional import Target
from regfast.training.regularizers.base import Context, Regularizer, checked_range, register


@register("maxsup")
class MaxSup(Regularizer):
    """Cross-entropy, plus `strength` ≥ 0 times how far the largest logit is above their mean (eq. 8).

    Label smoothing holds down the labeled class's logit, right or wrong; this holds down the predicted class's.
    """

    label, proper = "MaxSup", True

    def __init__(self, strength: float = 0.1):
        self.strength = checked_range("strength", strength, 0)

    def loss(self, logits: Tensor, target: Target, features: Tensor, context: Context) -> Tensor:
        """Cross-entropy and the penalty."""
        loss, _ = context.cross_entropy(logits, target, features)
        return loss + self.strength * (logits.amax(1) - logits.mean(1)).mean()
