"""`torch.nn` modules over `regfast.functional`."""

from __future__ import annotations

from torch import Tensor, nn

from regfast.functional import Target, linear_soft_cross_entropy, soft_cross_entropy
from regfast.ops.target import Reduction

__all__ = ["LinearSoftCrossEntropy", "SoftCrossEntropy"]


class SoftCrossEntropy(nn.Module):
    """`regfast.soft_cross_entropy` as a module: takes the place of `torch.nn.CrossEntropyLoss`.

    Args:
        reduction: "none", "mean" or "sum".
        label_smoothing: ε in [0, 1], on top of any target.
        class_weight: (K,) floating; a buffer, so that it moves with the module.
        ignore_index: rows with this class have loss and gradient exactly 0.
        inplace: let the backward pass write its gradient over the logits.
    """

    class_weight: Tensor | None

    def __init__(
        self,
        *,
        reduction: Reduction = "mean",
        label_smoothing: float = 0.0,
        class_weight: Tensor | None = None,
        ignore_index: int = -100,
        inplace: bool = False,
    ):
        super().__init__()
        self.reduction: Reduction = reduction
        self.label_smoothing = label_smoothing
        self.ignore_index = ignore_index
        self.inplace = inplace
        self.register_buffer("class_weight", class_weight)

    def forward(self, logits: Tensor, target: Target, sample_weight: Tensor | None = None) -> Tensor:
        """Loss of logits (B, K) with (B,) int64, (B, K) floating or `SoftTargets`."""
        return soft_cross_entropy(
            logits,
            target,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
            class_weight=self.class_weight,
            sample_weight=sample_weight,
            ignore_index=self.ignore_index,
            inplace=self.inplace,
        )

    def extra_repr(self) -> str:
        """What `print` shows between the brackets."""
        return f"reduction={self.reduction!r}, label_smoothing={self.label_smoothing}"


class LinearSoftCrossEntropy(SoftCrossEntropy):
    """`regfast.linear_soft_cross_entropy` as a module: the loss of a head's logits that are never all in memory.

    Args: as `SoftCrossEntropy`, without `inplace`.
    """

    def __init__(
        self,
        *,
        reduction: Reduction = "mean",
        label_smoothing: float = 0.0,
        class_weight: Tensor | None = None,
        ignore_index: int = -100,
    ):
        super().__init__(
            reduction=reduction, label_smoothing=label_smoothing, class_weight=class_weight, ignore_index=ignore_index
        )

    def forward(  # type: ignore[override]
        self, features: Tensor, head: nn.Linear, target: Target, sample_weight: Tensor | None = None
    ) -> Tensor:
        """Loss of `head(features)`, features (B, d), with the target as in `SoftCrossEntropy`."""
        return linear_soft_cross_entropy(
            features,
            head.weight,
            head.bias,
            target,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
            class_weight=self.class_weight,
            sample_weight=sample_weight,
            ignore_index=self.ignore_index,
        )
