"""The fused loss in a Hugging Face `Trainer`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.nn.functional import pad

from regfast.functional import Target, soft_cross_entropy

__all__ = ["TrainerLoss"]


class TrainerLoss:
    """`regfast.soft_cross_entropy` as a Trainer's `compute_loss_func`, right under any accumulation and processes.

    The Trainer counts the labels of all batches of a step, `num_items_in_batch`, and leaves the division to the loss:
    the mean of each batch would make the gradient accumulation steps times too large. Labels of -100 are ignored.

    Args:
        shift: of a causal language model: the logits at a token are those of the next one's label.
        options: of `soft_cross_entropy` (`label_smoothing`, `class_weight`, `inplace`, …), but for `reduction`,
            `ignore_index` and `sample_weight`.

    Raises:
        TypeError: for an option that the Trainer's count leaves no choice of.

    >>> loss = TrainerLoss(label_smoothing=0.1)  # Trainer(..., compute_loss_func=loss)
    """

    def __init__(self, *, shift: bool = False, **options: Any):
        fixed = sorted({"reduction", "ignore_index", "sample_weight"} & set(options))
        if fixed:
            raise TypeError(f"the Trainer decides {', '.join(fixed)}: leave it out")
        self.shift = shift
        self.options = options

    def __call__(self, outputs: Any, labels: Target, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        """Loss of a model's outputs (a mapping with `logits`, or a tuple that begins with them).

        Args:
            outputs: logits (B, K), or (B, T, K) of tokens.
            labels: (B,) or (B, T) int64, -100 where there is none, or a target of (B, K) logits.
            num_items_in_batch: what the sum is divided by: the labels of all batches of the step. None: the mean.
        """
        logits = outputs["logits"] if isinstance(outputs, Mapping) else outputs[0]
        if not isinstance(logits, Tensor):
            raise TypeError(f"outputs must give logits, a tensor, got {type(logits).__name__}")
        if isinstance(labels, Tensor) and not labels.is_floating_point():
            if self.shift:
                labels = pad(labels, (0, 1), value=-100)[..., 1:]
            logits, labels = logits.flatten(0, -2), labels.flatten()
        elif self.shift:
            raise TypeError(f"shift=True needs labels (B, T), got {type(labels).__name__}")
        if num_items_in_batch is None:
            return soft_cross_entropy(logits, labels, **self.options)
        # With DataParallel there is a share of the count for every device, and the outputs are those of all.
        items = num_items_in_batch.sum() if isinstance(num_items_in_batch, Tensor) else num_items_in_batch
        return soft_cross_entropy(logits, labels, reduction="sum", **self.options) / items
