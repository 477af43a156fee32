"""Soft labels: `SoftTargets` keeps them as two classes and two numbers a sample; `MixUp`, `CutMix` and kin make them.

`q = (1 - s)(λ e_first + (1 - λ) e_second) + s/K`. Label smoothing: Szegedy et al. 2016 (arXiv 1512.00567); Mixup: Zhang
et al. 2018 (1710.09412); CutMix: Yun et al. 2019 (1905.04899).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.data._utils.collate import default_collate_fn_map

__all__ = ["CutMix", "MixUp", "RandomChoice", "SoftTargets", "cutmix", "mixup", "smooth"]


class SoftTargets:
    """Soft labels of B samples over K classes; the (B, K) matrix is built only by `dense()`.

    A pytree: `torch.utils._pytree` maps over its four parts. Goes through `torch.compile`, pickling, a DataLoader's
    workers, collate and pinning. Immutable by convention: methods return new targets that share memory where they can.

    Args:
        first: (B,) int64 classes in [0, K), or an `ignore_index`.
        second: (B,) int64 classes of the partners; `first` by default.
        lam: λ, share of `first`, in [0, 1]: a number, a 0-d tensor, or (B,) floating.
        smoothing: s, share spread over all K classes, in [0, 1]: a number or a 0-d tensor.
        num_classes: K.
        weight: the earlier name of `lam`.

    Raises:
        TypeError, ValueError: for parts of the wrong type, shape or range (values of tensors: on CPU only).
    """

    __slots__ = ("first", "lam", "num_classes", "second", "smoothing")

    def __init__(
        self,
        first: Tensor,
        second: Tensor | None = None,
        lam: float | Tensor = 1.0,
        smoothing: float | Tensor = 0.0,
        *,
        num_classes: int,
        weight: float | Tensor | None = None,
    ):
        lam = lam if weight is None else weight
        self.first = first
        self.second = first if second is None else second
        self.lam = lam
        self.smoothing = smoothing
        self.num_classes = num_classes
        _check_labels("first", self.first)
        _check_labels("second", self.second)
        if self.first.shape != self.second.shape:
            raise ValueError(f"second must have the shape of first {_shape(first)}, got {_shape(self.second)}")
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        _check_share("lam", lam, (torch.Size(()), self.first.shape))
        _check_share("smoothing", smoothing, (torch.Size(()),))

    def __len__(self) -> int:
        return len(self.first)

    def __repr__(self) -> str:
        lam = f"{_shape(self.lam)}" if isinstance(self.lam, Tensor) else f"{self.lam:.4g}"
        return (
            f"SoftTargets({_shape(self.first)}, num_classes={self.num_classes}, lam={lam}, "
            f"smoothing={float(self.smoothing):.4g}, device={self.first.device})"
        )

    @property
    def device(self) -> torch.device:
        """Where the classes are."""
        return self.first.device

    @property
    def weight(self) -> float | Tensor:
        """The earlier name of `lam`."""
        return self.lam

    def __getitem__(self, index: Any) -> SoftTargets:
        """The samples `index` (int, slice, mask or integer tensor); an int gives a single sample with 0-d parts."""
        lam = self.lam
        if isinstance(lam, Tensor) and lam.dim() > 0:
            lam = lam[index]
        return self._with(self.first[index], self.second[index], lam, self.smoothing)

    def to(self, device: torch.device | str | int, non_blocking: bool = False) -> SoftTargets:
        """The same targets on `device`."""
        return self._map(lambda part: part.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> SoftTargets:
        """The same targets in page-locked memory, as a DataLoader with `pin_memory=True` asks."""
        return self._map(lambda part: part.pin_memory())

    def dense(self, dtype: torch.dtype | None = None) -> Tensor:
        """The (B, K) probability matrix.

        Args:
            dtype: of the result; the default dtype of torch if None.

        Raises:
            IndexError: classes out of [0, K), on CPU; `ignore_index` has no dense form.
        """
        dtype = torch.get_default_dtype() if dtype is None else dtype
        if self.device.type == "cpu" and not torch.compiler.is_compiling():
            for name, labels in (("first", self.first), ("second", self.second)):
                if bool(((labels < 0) | (labels >= self.num_classes)).any()):
                    raise IndexError(f"{name} must lie in [0, {self.num_classes}), got {labels.tolist()}")
        share = torch.as_tensor(self.lam, dtype=dtype, device=self.device).expand(self.first.shape)
        spread = self.smoothing
        if isinstance(spread, Tensor):
            spread = spread.to(self.device, dtype)
        keep = 1 - spread
        q = (
            torch.zeros(*self.first.shape, self.num_classes, dtype=dtype, device=self.device)
            + spread / self.num_classes
        )
        q = q.scatter_add(-1, self.first.unsqueeze(-1), (keep * share).unsqueeze(-1))
        return q.scatter_add(-1, self.second.unsqueeze(-1), (keep * (1 - share)).unsqueeze(-1))

    @staticmethod
    def cat(targets: Sequence[SoftTargets]) -> SoftTargets:
        """Batches one after the other; single samples (0-d parts) are stacked.

        Raises:
            ValueError: for none, or where `num_classes` or `smoothing` differ.
        """
        if not targets:
            raise ValueError("targets must hold at least one SoftTargets, got none")
        head = targets[0]
        for part in targets:
            if part.num_classes != head.num_classes:
                raise ValueError(f"num_classes must agree, got {head.num_classes} and {part.num_classes}")
            if part.smoothing is not head.smoothing and float(part.smoothing) != float(head.smoothing):
                raise ValueError(f"smoothing must agree, got {float(head.smoothing)} and {float(part.smoothing)}")
        lam: float | Tensor = head.lam
        if isinstance(lam, Tensor) or any(isinstance(t.lam, Tensor) or t.lam != lam for t in targets):
            shares = [torch.as_tensor(t.lam, device=t.device).expand(t.first.shape).reshape(-1) for t in targets]
            lam = torch.cat([share.to(torch.get_default_dtype()) for share in shares])
        first = torch.cat([t.first.reshape(-1) for t in targets])
        return head._with(first, torch.cat([t.second.reshape(-1) for t in targets]), lam, head.smoothing)

    def _map(self, change: Callable[[Tensor], Tensor]) -> SoftTargets:
        parts = (change(part) if isinstance(part, Tensor) else part for part in _flatten(self)[0])
        return _unflatten(parts, self.num_classes)

    def _with(self, first: Tensor, second: Tensor, lam: float | Tensor, smoothing: float | Tensor) -> SoftTargets:
        return _unflatten((first, second, lam, smoothing), self.num_classes)


def _flatten(targets: SoftTargets) -> tuple[list[Any], int]:
    return [targets.first, targets.second, targets.lam, targets.smoothing], targets.num_classes


def _unflatten(parts: Any, num_classes: int) -> SoftTargets:
    """Without the checks: a pytree's leaves may be anything, and parts of checked targets need no second look."""
    targets = object.__new__(SoftTargets)
    targets.first, targets.second, targets.lam, targets.smoothing = parts
    targets.num_classes = num_classes
    return targets


pytree.register_pytree_node(SoftTargets, _flatten, _unflatten, serialized_type_name="regfast.SoftTargets")
default_collate_fn_map[SoftTargets] = lambda batch, *, collate_fn_map=None: SoftTargets.cat(batch)


def smooth(labels: Tensor, num_classes: int, smoothing: float | Tensor) -> SoftTargets:
    """Label smoothing: `(1 - s) e_label + s/K`.

    Args:
        labels: (B,) int64.
        num_classes: K.
        smoothing: s in [0, 1].
    """
    return SoftTargets(labels, smoothing=smoothing, num_classes=num_classes)


def mixup(
    images: Tensor,
    labels: Tensor,
    num_classes: int,
    alpha: float = 1.0,
    *,
    smoothing: float = 0.0,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, SoftTargets]:
    """Mixup of each image with the one before it (the first with the last), one λ ~ Beta(alpha, alpha) a batch.

    Args:
        images: (B, …) floating; left as they are.
        labels: (B,) int64.
        num_classes: K.
        alpha: > 0.
        smoothing: label smoothing s on top, in [0, 1].
        generator: where λ is drawn; torch's default generator if None.

    Returns:
        `λ images + (1 - λ) images.roll(1)` and the targets (λ a Python number).

    Raises:
        TypeError, ValueError: for images or labels of the wrong type, shape or size, or alpha ≤ 0.
    """
    _check_batch(images, labels, 1)
    share = _beta(alpha, generator)
    mixed = images.roll(1, 0).lerp_(images, share)
    return mixed, _with_previous(labels, share, smoothing, num_classes)


def cutmix(
    images: Tensor,
    labels: Tensor,
    num_classes: int,
    alpha: float = 1.0,
    *,
    smoothing: float = 0.0,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, SoftTargets]:
    """CutMix: a box of the image before each one (the first: the last) is pasted over it, one box a batch.

    The box has the share 1 - λ of the image, λ ~ Beta(alpha, alpha), around a uniform centre; λ in the targets is
    corrected for what of the box lies inside the image, in whole pixels.

    Args:
        images: (B, …, H, W); left as they are.
        labels, num_classes, alpha, smoothing, generator: as in `mixup`.

    Returns:
        The images and the targets (λ a Python number).

    Raises:
        TypeError, ValueError: for images or labels of the wrong type, shape or size, or alpha ≤ 0.
    """
    _check_batch(images, labels, 3)
    height, width = images.shape[-2:]
    half = 0.5 * math.sqrt(1.0 - _beta(alpha, generator))
    top, bottom = _extent(height, half, generator)
    left, right = _extent(width, half, generator)
    mixed = images.clone()
    box = (..., slice(top, bottom), slice(left, right))
    mixed[box] = images[box].roll(1, 0)
    share = 1.0 - (bottom - top) * (right - left) / (height * width)
    return mixed, _with_previous(labels, share, smoothing, num_classes)


class _BatchTransform:
    _mix: Callable[..., tuple[Tensor, SoftTargets]]

    def __init__(
        self,
        num_classes: int,
        alpha: float = 1.0,
        *,
        smoothing: float = 0.0,
        generator: torch.Generator | None = None,
    ):
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        _check_alpha(alpha)
        _check_share("smoothing", smoothing, (torch.Size(()),))
        self.num_classes, self.alpha, self.smoothing, self.generator = num_classes, alpha, smoothing, generator

    def __repr__(self) -> str:
        return f"{type(self).__name__}(num_classes={self.num_classes}, alpha={self.alpha}, smoothing={self.smoothing})"

    def __call__(self, *batch: Any) -> tuple[Tensor, SoftTargets]:
        """`(images, labels)`, or one pair of them, to `(images, SoftTargets)`."""
        images, labels = _pair(batch)
        return self._mix(
            images, labels, self.num_classes, self.alpha, smoothing=self.smoothing, generator=self.generator
        )


class MixUp(_BatchTransform):
    """`mixup` as a batch transform, usable where `torchvision.transforms.v2.MixUp` is; arguments as in `mixup`."""

    _mix = staticmethod(mixup)


class CutMix(_BatchTransform):
    """`cutmix` as a batch transform, usable where `torchvision.transforms.v2.CutMix` is; arguments as in `cutmix`."""

    _mix = staticmethod(cutmix)


class RandomChoice:
    """One of several batch transforms, drawn for every batch.

    Args:
        transforms: callables from `(images, labels)` to `(images, target)`.
        p: their probabilities, up to a factor; equal by default.
        generator: where the choice is drawn; torch's default generator if None.

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
        if min(p) < 0 or not 0 < sum(p) < math.inf:
            raise ValueError(f"p must be at least 0 with a positive sum, got {p}")
        self.transforms, self.p, self.generator = list(transforms), p, generator

    def __call__(self, *batch: Any) -> Any:
        """What the transform drawn makes of `(images, labels)`, or of one pair of them."""
        chances = torch.tensor(self.p, dtype=torch.float64)
        choice = int(torch.multinomial(chances, 1, generator=self.generator))
        return self.transforms[choice](*_pair(batch))


def _with_previous(labels: Tensor, share: float, smoothing: float, num_classes: int) -> SoftTargets:
    return SoftTargets(labels, labels.roll(1, 0), share, smoothing, num_classes=num_classes)


def _beta(alpha: float, generator: torch.Generator | None) -> float:
    """One draw of Beta(alpha, alpha); as a ratio of gammas taken in logs, so that a tiny alpha does not give 0/0."""
    _check_alpha(alpha)
    device = "cpu" if generator is None else generator.device
    shape = torch.full((2,), alpha + 1.0, dtype=torch.float64, device=device)
    gammas = torch._standard_gamma(shape, generator=generator)
    uniform = torch.rand(2, dtype=torch.float64, device=device, generator=generator)
    logs = gammas.log() + uniform.log() / alpha
    return float(torch.sigmoid(logs[0] - logs[1]).nan_to_num(0.5))


def _extent(size: int, half: float, generator: torch.Generator | None) -> tuple[int, int]:
    """Begin and end of an interval of length 2·half·size around a uniform pixel, clipped to [0, size]."""
    device = "cpu" if generator is None else generator.device
    centre = int(torch.randint(size, (), device=device, generator=generator))
    reach = int(half * size)
    return max(centre - reach, 0), min(centre + reach, size)


def _pair(batch: tuple[Any, ...]) -> tuple[Any, Any]:
    if len(batch) == 1:
        batch = tuple(batch[0])
    if len(batch) != 2:
        raise ValueError(f"expected (images, labels), got {len(batch)} values")
    return batch[0], batch[1]


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)


def _check_alpha(alpha: float) -> None:
    if not 0 < alpha < math.inf:
        raise ValueError(f"alpha must be positive and finite, got {alpha}")


def _check_labels(name: str, labels: Tensor) -> None:
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64:
        got = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise TypeError(f"{name} must be an int64 tensor, got {got}")
    if labels.dim() > 1:
        raise ValueError(f"{name} must have shape (B,), got {_shape(labels)}")


def _check_share(name: str, share: float | Tensor, shapes: tuple[torch.Size, ...]) -> None:
    if not isinstance(share, Tensor):
        if not 0 <= share <= 1:
            raise ValueError(f"{name} must lie in [0, 1], got {share}")
        return
    if not share.is_floating_point():
        raise TypeError(f"{name} must be a number or a floating tensor, got {share.dtype}")
    if share.shape not in shapes:
        raise ValueError(f"{name} must have shape {' or '.join(str(tuple(s)) for s in shapes)}, got {_shape(share)}")
    looks = share.device.type == "cpu" and not torch.compiler.is_compiling()
    if looks and not bool(((share >= 0) & (share <= 1)).all()):
        raise ValueError(f"{name} must lie in [0, 1], got {share.tolist()}")


def _check_batch(images: Tensor, labels: Tensor, least_dims: int) -> None:
    _check_labels("labels", labels)
    if not isinstance(images, Tensor) or not images.is_floating_point():
        got = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"images must be a floating tensor, got {got}")
    if images.dim() < least_dims or labels.dim() != 1 or len(images) != len(labels):
        raise ValueError(f"images and labels must have as many rows, got {_shape(images)} and {_shape(labels)}")
