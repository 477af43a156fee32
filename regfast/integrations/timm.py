"""timm's `Mixup`, `FastCollateMixup` and losses of the same names, with `SoftTargets` in place of a (B, K) matrix.

A training script written for timm changes its imports and nothing else:

    from regfast.integrations.timm import FastCollateMixup, LabelSmoothingCrossEntropy, Mixup, SoftTargetCrossEntropy

Options, draws (NumPy's global state, as `timm.utils.random_seed` seeds it) and images are timm's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

from regfast.models import _torchvision  # noqa: F401 (timm imports torchvision)
from regfast.nn import SoftCrossEntropy
from regfast.targets import SoftTargets
from regfast.targets.mixing import mix_labels

try:
    from timm.data import mixup as timm_mixup
    from timm.loss.binary_cross_entropy import BinaryCrossEntropy as _BinaryCrossEntropy
except ImportError as error:
    raise ImportError("timm is needed for this: pip install 'regfast[vision]'") from error

__all__ = ["BinaryCrossEntropy", "FastCollateMixup", "LabelSmoothingCrossEntropy", "Mixup", "SoftTargetCrossEntropy"]


class Mixup(timm_mixup.Mixup):
    """`timm.data.Mixup`, with all of its options; the targets are `SoftTargets`.

    Labels of -100 (any negative one) are allowed, the losses ignore their mixes. With `multi_label=True` the targets
    are timm's matrix: such labels are no two classes.

    Raises:
        ValueError: an odd batch, which timm cannot pair. IndexError: a label of num_classes or more, on CPU.

    >>> mix = Mixup(mixup_alpha=0.8, cutmix_alpha=1.0, mode="elem", label_smoothing=0.1, num_classes=10)
    >>> images, target = mix(torch.rand(8, 3, 32, 32), torch.arange(8))
    """

    def __call__(self, x: Tensor, target: Tensor) -> tuple[Tensor, SoftTargets | Tensor]:
        """Images (B, C, H, W) floating, mixed in place, and labels (B,) int64; λ for the batch, or (B,)."""
        _check_even(len(x))
        if getattr(self, "multi_label", False):
            mixed: tuple[Tensor, Tensor] = super().__call__(x, target)
            return mixed
        mix = {"elem": self._mix_elem, "pair": self._mix_pair}.get(self.mode, self._mix_batch)
        lam = mix(x)
        return x, _targets(self, target, lam)


class FastCollateMixup(timm_mixup.FastCollateMixup):
    """`timm.data.FastCollateMixup`: uint8 images mixed while they are collated; the targets are `SoftTargets`.

    Options and errors as `Mixup`, and `mode="half"`. timm's loaders know it for a FastCollateMixup.
    """

    def __call__(self, batch: Sequence[tuple[Any, Any]], _: Any = None) -> tuple[Tensor, SoftTargets | Tensor]:
        """Pairs of an image (C, H, W) uint8, tensor or array, and a label, to images (B, C, H, W) uint8 and targets."""
        _check_even(len(batch))
        if getattr(self, "multi_label", False):
            mixed: tuple[Tensor, Tensor] = super().__call__(batch, _)
            return mixed
        half = "half" in self.mode
        images = torch.zeros((len(batch) // (1 + half), *batch[0][0].shape), dtype=torch.uint8)
        if half or self.mode == "elem":
            lam = self._mix_elem_collate(images, batch, half=half)
        elif self.mode == "pair":
            lam = self._mix_pair_collate(images, batch)
        else:
            lam = self._mix_batch_collate(images, batch)
        return images, _targets(self, default_collate([label for _, label in batch]), lam)[: len(images)]


class SoftTargetCrossEntropy(SoftCrossEntropy):
    """`timm.loss.SoftTargetCrossEntropy`, the mean over rows; takes `SoftTargets` too, and labels."""

    def __init__(self) -> None:
        super().__init__()


class LabelSmoothingCrossEntropy(SoftCrossEntropy):
    """`timm.loss.LabelSmoothingCrossEntropy`: the mean over rows with label smoothing.

    Args:
        smoothing: s in [0, 1].
    """

    def __init__(self, smoothing: float = 0.1) -> None:
        super().__init__(label_smoothing=smoothing)


class BinaryCrossEntropy(_BinaryCrossEntropy):
    """`timm.loss.BinaryCrossEntropy`, with all of its options; takes `SoftTargets` too, as their (B, K) matrix.

    Raises:
        IndexError: `SoftTargets` of a class out of [0, K), on CPU; it has no `ignore_index`.
    """

    def forward(self, x: Tensor, target: Tensor | SoftTargets) -> Tensor:
        """Loss of logits (B, K) with labels (B,), probabilities (B, K) or `SoftTargets`."""
        loss: Tensor = super().forward(x, target.dense(x.dtype) if isinstance(target, SoftTargets) else target)
        return loss


def _check_even(rows: int) -> None:
    if rows % 2:
        raise ValueError(f"timm's Mixup pairs the first image with the last: the batch must be even, got {rows}")


def _targets(mixup: timm_mixup.Mixup, labels: Tensor, lam: float | Tensor) -> SoftTargets:
    # (B, 1) in the images' type where every element has its own.
    share = lam.squeeze(1).float() if isinstance(lam, Tensor) else float(lam)
    return mix_labels(labels, labels.flip(0), share, mixup.label_smoothing, mixup.num_classes)
