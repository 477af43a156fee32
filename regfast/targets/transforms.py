"""`MixUp`, `CutMix`, `RandomChoice`: batch transforms, usable where those of `torchvision.transforms.v2` are."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.data import get_worker_info

from regfast.targets import mixing
from regfast.targets.soft_targets import SoftTargets, check_num_classes, check_share, looks_at, shape_of

__all__ = ["CutMix", "MixUp", "RandomChoice"]


class _BatchTransform:
    """What torchvision's batch transforms take; the labels become `SoftTargets`."""

    _floating = False

    def __init__(
        self,
        num_classes: int | None = None,
        alpha: float = 1.0,
        *,
        smoothing: float = 0.0,
        generator: torch.Generator | None = None,
        labels_getter: Callable[[Any], Tensor] | str = "default",
    ):
        if num_classes is not None:
            check_num_classes(num_classes)
        mixing.check_alpha(alpha)
        mixing.check_generator(generator)
        check_share("smoothing", smoothing)
        if labels_getter != "default" and not callable(labels_getter):
            raise ValueError(f"labels_getter must be 'default' or callable, got {labels_getter!r}")
        self.num_classes, self.alpha, self.smoothing, self.generator = num_classes, alpha, smoothing, generator
        self.labels_getter = labels_getter

    def __repr__(self) -> str:
        return f"{type(self).__name__}(num_classes={self.num_classes}, alpha={self.alpha}, smoothing={self.smoothing})"

    def __call__(self, *batch: Any) -> Any:
        """A batch with mixed images and labels; the rest of it as it is.

        Args:
            batch: (images, labels, …), as arguments or one sequence, or a mapping. The images are the tensor (or
                torchvision's `Image` or `Video`) of most dimensions, the first of several, that is not the labels:
                (B, …) floating for `MixUp`, (B, …, H, W) of any type for `CutMix`.
                The labels: (B,) int64 or uint8; (B, K) integers, one-hot; or (B, K) floating, probabilities.

        Returns:
            The same structure. Labels (B,) and one-hot ones become `SoftTargets`, probabilities stay a (B, K) matrix.

        Raises:
            TypeError, ValueError, IndexError: for images or labels of the wrong type, shape, size or range.
        """
        content = batch[0] if len(batch) == 1 else batch
        labels = find_labels(content) if isinstance(self.labels_getter, str) else self.labels_getter(content)
        if not isinstance(labels, Tensor):
            raise TypeError(f"labels must be a tensor, got {type(labels).__name__}")
        leaves, structure = pytree.tree_flatten(content)
        tensors = [(place, leaf) for place, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        at = next((place for place, leaf in tensors if leaf is labels), None)
        pictured = [(place, leaf.dim()) for place, leaf in tensors if place != at and leaf.dim() > 1]
        images_at = max(pictured, key=lambda found: found[1])[0] if pictured else None
        if at is None or images_at is None:
            raise ValueError("expected a batch that holds images and labels as tensors, in a sequence or a mapping")
        others = [type(leaf) for place, leaf in tensors if place not in (at, images_at)]
        for kind in others:
            if kind.__module__.startswith("torchvision"):  # masks, boxes, key points
                raise ValueError(f"{type(self).__name__} mixes images and labels, not {kind.__name__}")
        leaves[images_at], leaves[at] = self._mixed(leaves[images_at], labels)
        return pytree.tree_unflatten(leaves, structure)

    def _mixed(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor | SoftTargets]:
        mixing.check_images(images, labels, 1 if self._floating else 3, floating=self._floating)
        if labels.dim() == 2 and self.num_classes not in (None, labels.shape[1]):
            raise ValueError(f"labels (B, K) must have {self.num_classes} columns, got {shape_of(labels)}")
        mixed, lam = self._draw(images.as_subclass(Tensor), own_generator(self.generator))
        mixed = mixed.as_subclass(type(images))
        if labels.dim() == 2 and labels.is_floating_point():
            return mixed, mixing.mix_images(labels, lam) * (1 - self.smoothing) + self.smoothing / labels.shape[1]
        num_classes = labels.shape[1] if labels.dim() == 2 else self.num_classes
        if num_classes is None:
            raise ValueError("num_classes must be given for labels (B,), got None")
        if labels.dim() == 2:
            one_hot = (labels.sum(1) == 1) & (labels.amax(1) == 1)
            if looks_at(labels) and not bool(one_hot.all()):
                raise ValueError("labels (B, K) of integers must be one-hot; pass probabilities as a floating tensor")
            labels = torch.where(one_hot, labels.long().argmax(1), num_classes)  # K: a class that no loss lets pass
        return mixed, mixing.mix_labels(labels, labels.roll(1, 0), lam, self.smoothing, num_classes)

    def _draw(self, images: Tensor, generator: torch.Generator | None) -> tuple[Tensor, float | Tensor]:
        raise NotImplementedError


class MixUp(_BatchTransform):
    """`regfast.mixup` as a batch transform, usable where `torchvision.transforms.v2.MixUp` is.

    Args:
        num_classes: K; may be left out where the labels are one-hot or probabilities.
        alpha: of λ ~ Beta(alpha, alpha), > 0.
        smoothing: label smoothing s on top, in [0, 1].
        generator: where λ is drawn; torch's default generator if None. A DataLoader's worker seeds its copy anew, by
            the copy and the worker's seed: other draws in every worker and epoch, the same for the same generator and
            DataLoader's generator (or `torch.manual_seed`). Ranks of a distributed run need seeds of their own.
        labels_getter: from the batch to the tensor in it that holds the labels; by default the second of a sequence,
            or the mapping's entry called "labels", else the first with "label" in its name (any case).

    Raises:
        ValueError: for values out of range.

    >>> images, target = MixUp(10, alpha=0.2, smoothing=0.1)(torch.rand(8, 3, 32, 32), torch.arange(8))
    """

    _floating = True

    def _draw(self, images: Tensor, generator: torch.Generator | None) -> tuple[Tensor, float | Tensor]:
        lam = mixing.beta(self.alpha, generator)
        return mixing.mix_images(images, lam), lam


class CutMix(_BatchTransform):
    """`regfast.cutmix` as a batch transform, usable where `torchvision.transforms.v2.CutMix` is.

    Args and errors: as `MixUp`.

    >>> images, target = CutMix(10, alpha=1.0)(torch.rand(8, 3, 32, 32), torch.arange(8))
    """

    def _draw(self, images: Tensor, generator: torch.Generator | None) -> tuple[Tensor, float | Tensor]:
        box, lam = mixing.draw_box(images.shape[-2], images.shape[-1], self.alpha, generator)
        return mixing.paste(images, box), lam


class RandomChoice:
    """One of several batch transforms, drawn for every batch.

    Args:
        transforms: callables that take a batch as `MixUp` does.
        p: their probabilities, up to a factor; equal by default.
        generator: where the choice is drawn, in a worker as with `MixUp`; torch's default generator if None. The choice
            is read on the host: a CPU generator spares it a wait.

    Raises:
        ValueError: no transforms, or `p` of another length, negative or all zero.
    """

    def __init__(
        self,
        transforms: Sequence[Callable[..., Any]],
        p: Sequence[float] | None = None,
        *,
        generator: torch.Generator | None = None,
    ):
        p = [1.0] * len(transforms) if p is None else list(p)
        if not transforms or len(p) != len(transforms):
            raise ValueError(f"transforms and p must be as many, at least one; got {len(transforms)} and {len(p)}")
        if not all(isinstance(chance, Real) for chance in p):
            raise TypeError(f"p must hold numbers, got {p}")
        if min(p) < 0 or not 0 < sum(p) < math.inf:
            raise ValueError(f"p must be at least 0 with a positive sum, got {p}")
        mixing.check_generator(generator)
        self.transforms, self.p, self.generator = list(transforms), p, generator

    def __call__(self, *batch: Any) -> Any:
        """What the transform drawn makes of the batch."""
        generator = own_generator(self.generator)
        device = "cpu" if generator is None else generator.device
        chances = torch.tensor(self.p, dtype=torch.float64, device=device)
        return self.transforms[int(torch.multinomial(chances, 1, generator=generator))](*batch)


# Generators that are a DataLoader worker's own by now; empty in every other process.
_OWN: list[torch.Generator] = []


def own_generator(generator: torch.Generator | None) -> torch.Generator | None:
    """`generator`; in a DataLoader's worker, where it is a copy as in all of them, seeded anew the first time."""
    worker = get_worker_info()
    if worker is not None and generator is not None and not any(own is generator for own in _OWN):
        drawn = torch.randint(2**62, (), device=generator.device, generator=generator)
        generator.manual_seed(int(drawn) ^ (worker.seed % 2**62))
        _OWN.append(generator)
    return generator


def find_labels(batch: Any) -> Any:
    """The labels of a batch by torchvision's rule: the second of a sequence, or a mapping's entry of that name."""
    content = batch[1] if isinstance(batch, Sequence) and len(batch) > 1 else batch
    if not isinstance(content, Mapping):
        return content
    names = [name for name in content if isinstance(name, str) and "label" in name.lower()]
    exact = [name for name in names if name.lower() == "labels"]
    if not names:
        raise ValueError(
            f"no entry of the batch is called labels, only {', '.join(map(str, content))}: pass labels_getter="
        )
    return content[(exact or names)[0]]
