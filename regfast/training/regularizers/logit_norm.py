"""LogitNorm: Wei et al. 2022 (arXiv 2205.09310)."""

from __future__ import annotations

from torch import Tensor

from regfast.functional import Target
from regfast.training.regularizers.base import Context, Regularizer, checked_range, register


@register("logit-norm")
class LogitNorm(Regularizer):
    """Cross-entropy of logits of the fixed norm 1 / `temperature` (> 0): only their direction is trained (eq. 5).

    0.04 is the paper's choice for CIFAR-10; a small network that is trained for a short time needs more, about 0.2.
    """

    label, proper = "LogitNorm", True

    def __init__(self, temperature: float = 0.04):
        self.temperature = checked_range("temperature", temperature, 0, open_low=True)

    def loss(self, logits: Tensor, target: Target, features: Tensor, context: Context) -> Tensor:
        """Cross-entropy of the normalized logits."""
        norm = logits.norm(dim=1, keepdim=True) + 1e-7  # as the paper's code has it: no logit, no direction
        return context.cross_entropy(logits / (norm * self.temperature), target, features)[0]
