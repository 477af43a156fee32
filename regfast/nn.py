"""`torch.nn` modules over `regfast.functional`."""

from __future__ import annotations

from torch import Tensor, nn

from regfast.functional import Target, linear_soft_cross_entropy, soft_cross_entropy
from regfast.ops.target import Reduction

__all__ = ["LinearSoftCrossEntropy", "SoftCrossEntropy"]


class SoftCrossEntropy(nn.Module):
    """`regfast.soft_cross_entropy` as a module: takes the place of `torch.nn.CrossEntropyLoss`, its state dict too.

    Args (the first six are those of `CrossEntropyLoss`):
        weight: (K,) floating class weights; a buffer, so that it moves with the module.
        size_average: an earlier name of `reduction`, as in torch: False means "sum".
        ignore_index: rows with this class have loss and gradient exactly 0.
        reduce: an earlier name of `reduction`, as in torch: False means "none".
        reduction: "none", "mean" or "sum".
        label_smoothing: ε in [0, 1], on top of any target.
        z_loss: c ≥ 0, adds `c · lse(z)²` to the row's loss.
        inplace: allow the gradient to take the memory of the logits.

    >>> criterion = SoftCrossEntropy(label_smoothing=0.1)
    >>> criterion(torch.zeros(2, 4), torch.tensor([1, 3]))
    tensor(1.3863)
    """

    weight: Tensor | None

    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: bool | None = None,
        ignore_index: int = -100,
        reduce: bool | None = None,
        reduction: Reduction = "mean",
        label_smoothing: float = 0.0,
        *,
        z_loss: float = 0.0,
        inplace: bool = False,
    ):
        super().__init__()
        if size_average is not None or reduce is not None:
            reduction = "none" if reduce is False else "sum" if size_average is False else "mean"
        self.reduction: Reduction = reduction
        self.label_smoothing = label_smoothing
        self.ignore_index = ignore_index
        self.z_loss = z_loss
        self.inplace = inplace
        self.register_buffer("weight", weight)

    def forward(self, input: Tensor, target: Target, sample_weight: Tensor | None = None) -> Tensor:  # noqa: A002
        """Loss of the logits `input`, as torch calls them, (B, K) or (B, K, d1, …), with classes, probabilities or
        `SoftTargets`."""
        return soft_cross_entropy(
            input,
            target,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
            class_weight=self.weight,
            sample_weight=sample_weight,
            ignore_index=self.ignore_index,
            z_loss=self.z_loss,
            inplace=self.inplace,
        )

    def extra_repr(self) -> str:
        """What `print` shows between the brackets."""
        return f"reduction={self.reduction!r}, label_smoothing={self.label_smoothing}"


class LinearSoftCrossEntropy(SoftCrossEntropy):
    """`regfast.linear_soft_cross_entropy` as a module: the loss of a head's logits that are never all in memory.

    Args: as `SoftCrossEntropy`, of which `inplace` has nothing to take here.

    >>> criterion, head = LinearSoftCrossEntropy(label_smoothing=0.1), nn.Linear(8, 5)
    >>> criterion(torch.randn(2, 8), head, torch.tensor([0, 4])).backward()
    """

    def forward(  # type: ignore[override]
        self, features: Tensor, head: nn.Linear, target: Target, sample_weight: Tensor | None = None
    ) -> Tensor:
        """Loss of `head(features)`, features (B, d) or (…, d), target as `regfast.linear_soft_cross_entropy` has it."""
        return linear_soft_cross_entropy(
            features,
            head.weight,
            head.bias,
            target,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
            class_weight=self.weight,
            sample_weight=sample_weight,
            ignore_index=self.ignore_index,
            z_loss=self.z_loss,
        )
