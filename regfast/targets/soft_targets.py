"""`SoftTargets`: soft labels as two classes, λ and a smoothing, `q = (1 - s)(λ e_first + (1 - λ) e_second) + s/K`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor
from torch.fx._pytree import register_pytree_flatten_spec
from torch.utils import _pytree as pytree
from torch.utils.data._utils.collate import default_collate_fn_map


class SoftTargets:
    """Soft labels of B samples over K classes; the (B, K) matrix is built only by `dense()`.

    A pytree: `torch.utils._pytree` maps over its four parts. Goes through `torch.compile`, pickling, a DataLoader's
    workers, collate and pinning. Immutable by convention: methods return new targets that share memory where they can.

    Args:
        first: (B,) int64 or uint8 classes in [0, K), or an `ignore_index`; (B, d1, …) for labels of pixels or tokens.
        second: classes of the partners, in the shape of `first`; `first` by default.
        lam: λ, share of `first`, in [0, 1]: a number, a 0-d tensor, (B,) floating, or floating in the shape of `first`.
        smoothing: s, share spread over all K classes, in [0, 1]: a number or a 0-d tensor.
        num_classes: K.
        weight: the earlier name of `lam`.

    The losses ignore a row where `first` or `second` is their `ignore_index`: a mix with an unlabeled sample has no
    label. (Mixing puts the other class in place of a partner whose share is 0.)

    Raises:
        TypeError, ValueError: for parts of the wrong type, shape or range (values of tensors: on CPU only).

    >>> target = SoftTargets(torch.tensor([0, 2]), torch.tensor([2, 1]), lam=0.75, num_classes=3)
    >>> target.dense()
    tensor([[0.7500, 0.0000, 0.2500],
            [0.0000, 0.2500, 0.7500]])
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
        self.first = class_labels("first", first)
        self.second = self.first if second is None else class_labels("second", second)
        self.lam = lam
        self.smoothing = smoothing
        self.num_classes = num_classes
        if self.first.shape != self.second.shape:
            raise ValueError(f"second must have the shape of first {shape_of(first)}, got {shape_of(self.second)}")
        check_num_classes(num_classes)
        check_share("lam", lam, self.first)
        check_share("smoothing", smoothing)

    def __len__(self) -> int:
        return len(self.first)

    def __repr__(self) -> str:
        lam = f"{shape_of(self.lam)}" if isinstance(self.lam, Tensor) else f"{self.lam:.4g}"
        return (
            f"SoftTargets({shape_of(self.first)}, num_classes={self.num_classes}, lam={lam}, "
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

    @property
    def shape(self) -> torch.Size:
        """That of `dense()`: (B, K), or (B, K, d1, …)."""
        return torch.Size((*self.first.shape[:1], self.num_classes, *self.first.shape[1:]))

    @property
    def ndim(self) -> int:
        """Number of dimensions of `dense()`."""
        return self.first.ndim + 1

    def size(self, dim: int | None = None) -> int | torch.Size:
        """As `torch.Tensor.size` of `dense()`."""
        return self.shape if dim is None else self.shape[dim]

    def argmax(self, dim: int = 1) -> Tensor:
        """The class with the largest share, in the shape of `first`; the lower one of two equal shares.

        Args:
            dim: that of the classes in `dense()`, 1 (0 for a single sample); there is no other argmax.

        Raises:
            ValueError: for another `dim`.
        """
        if dim % self.ndim != min(self.first.ndim, 1):
            raise ValueError(f"dim must be that of the classes, {min(self.first.ndim, 1)}, got {dim}")
        lam = self._lam()
        likely = torch.where(lam > 0.5, self.first, self.second)
        return torch.where(lam == 0.5, torch.minimum(self.first, self.second), likely)

    def ne(self, ignored: int) -> Tensor:
        """Where no class with a label `ignored` takes part, in the shape of `first`: what `labels.ne(-100)` counts."""
        return (self.first != ignored) & (self.second != ignored)

    def __getitem__(self, index: Any) -> SoftTargets:
        """The samples `index` (int, slice, mask or integer tensor); an int gives a single sample, without a batch."""
        lam = self.lam
        if isinstance(lam, Tensor) and lam.dim() > 0:
            lam = lam[index]
        return self._with(*self._labels(lambda labels: labels[index]), lam, self.smoothing)

    def to(self, device: torch.device | str | int, non_blocking: bool = False) -> SoftTargets:
        """The same targets on `device`."""
        return self._map(lambda part: part.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> SoftTargets:
        """The same targets in page-locked memory, as a DataLoader with `pin_memory=True` asks."""
        return self._map(lambda part: part.pin_memory())

    def dense(self, dtype: torch.dtype | None = None) -> Tensor:
        """The probabilities (B, K), or (B, K, d1, …).

        Args:
            dtype: of the result; the default dtype of torch if None.

        Raises:
            IndexError: classes out of [0, K), on CPU; `ignore_index` has no dense form.
        """
        dtype = torch.get_default_dtype() if dtype is None else dtype
        if looks_at(self.first):
            for name, labels in (("first", self.first), ("second", self.second)):
                outside = (labels < 0) | (labels >= self.num_classes)
                if bool(outside.any()):
                    raise IndexError(f"{name} must lie in [0, {self.num_classes}), got {int(labels[outside][0])}")
        share = self._lam().to(dtype)
        spread = self.smoothing
        if isinstance(spread, Tensor):
            spread = spread.to(self.device, dtype)
        keep = 1 - spread
        q = (
            torch.zeros(*self.first.shape, self.num_classes, dtype=dtype, device=self.device)
            + spread / self.num_classes
        )
        q = q.scatter_add(-1, self.first.unsqueeze(-1), (keep * share).unsqueeze(-1))
        q = q.scatter_add(-1, self.second.unsqueeze(-1), (keep * (1 - share)).unsqueeze(-1))
        return q.movedim(-1, min(self.first.ndim, 1))

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
            every = any(isinstance(t.lam, Tensor) and t.lam.dim() > 1 for t in targets)  # a λ a pixel, not a sample
            shares = [t._lam() if every or t.first.dim() < 2 else t._lam().flatten(1)[:, 0] for t in targets]
            lam = torch.cat([torch.atleast_1d(share).to(torch.get_default_dtype()) for share in shares])
        first = second = torch.cat([torch.atleast_1d(t.first) for t in targets])
        if any(t.second is not t.first for t in targets):
            second = torch.cat([torch.atleast_1d(t.second) for t in targets])
        return head._with(first, second, lam, head.smoothing)

    def _lam(self) -> Tensor:
        """λ in the shape of `first`: float64 of a number, else in its own type."""
        if not isinstance(self.lam, Tensor):
            return torch.full(self.first.shape, self.lam, dtype=torch.float64, device=self.device)
        lam = self.lam.to(self.device)
        if 0 < lam.dim() < self.first.dim():
            lam = lam.view(-1, *[1] * (self.first.dim() - 1))
        return lam.expand(self.first.shape)

    def _map(self, change: Callable[[Tensor], Tensor]) -> SoftTargets:
        numbers = (change(part) if isinstance(part, Tensor) else part for part in (self.lam, self.smoothing))
        return _unflatten((*self._labels(change), *numbers), self.num_classes)

    def _labels(self, change: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Both classes changed; where they are one tensor they stay one, which the losses read once."""
        first = change(self.first)
        return first, first if self.second is self.first else change(self.second)

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


def _flatten_with_keys(targets: SoftTargets) -> tuple[list[tuple[pytree.KeyEntry, Any]], int]:
    parts, num_classes = _flatten(targets)
    names = ("first", "second", "lam", "smoothing")
    return [(pytree.GetAttrKey(name), part) for name, part in zip(names, parts, strict=True)], num_classes


pytree.register_pytree_node(
    SoftTargets,
    _flatten,
    _unflatten,
    serialized_type_name="regfast.SoftTargets",
    flatten_with_keys_fn=_flatten_with_keys,
)
register_pytree_flatten_spec(SoftTargets, lambda targets, _: _flatten(targets)[0])  # exported programs of PyTorch 2.6
default_collate_fn_map[SoftTargets] = lambda batch, *, collate_fn_map=None: SoftTargets.cat([t[None] for t in batch])


def smooth(labels: Tensor, num_classes: int, smoothing: float | Tensor) -> SoftTargets:
    """Label smoothing: `(1 - s) e_label + s/K`.

    Args:
        labels: (B,) or (B, d1, …) int64 or uint8.
        num_classes: K.
        smoothing: s in [0, 1].

    >>> smooth(torch.tensor([1]), 4, 0.2).dense()
    tensor([[0.0500, 0.8500, 0.0500, 0.0500]])
    """
    return SoftTargets(class_labels("labels", labels), smoothing=smoothing, num_classes=num_classes)


def class_labels(name: str, labels: Tensor) -> Tensor:
    """`labels` as int64, or TypeError: int64 and uint8 are what `torch.nn.functional.cross_entropy` takes."""
    if not isinstance(labels, Tensor) or labels.dtype not in (torch.int64, torch.uint8):
        got = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise TypeError(f"{name} must be an int64 or uint8 tensor, got {got}")
    check_dense(name, labels)
    return labels if labels.dtype == torch.int64 else labels.long()


def check_num_classes(num_classes: int) -> None:
    """TypeError, ValueError unless it is a whole number of at least 1."""
    if not isinstance(num_classes, (int, Integral)):  # the common type first: an abstract one costs a microsecond
        raise TypeError(f"num_classes must be a whole number, got {num_classes!r}")
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}")
    if num_classes >= 2**63:
        raise ValueError(f"num_classes must be below 2**63, got {num_classes}")


def check_share(name: str, share: float | Tensor, labels: Tensor | None = None) -> None:
    """Error unless `share` is in [0, 1]: a number, or a floating tensor, 0-d or one a row or entry of `labels`."""
    if not isinstance(share, Tensor):
        if not isinstance(share, (float, int, Real)):
            raise TypeError(f"{name} must be a number or a floating tensor, got {type(share).__name__}")
        if not 0 <= share <= 1:
            raise ValueError(f"{name} must lie in [0, 1], got {share}")
        return
    if not share.is_floating_point():
        raise TypeError(f"{name} must be a number or a floating tensor, got {share.dtype}")
    check_dense(name, share)
    shapes = [torch.Size(())] if labels is None else [torch.Size(()), labels.shape[:1], labels.shape]
    if share.shape not in shapes:
        wanted = " or ".join(str(tuple(shape)) for shape in dict.fromkeys(shapes))
        raise ValueError(f"{name} must have shape {wanted}, got {shape_of(share)}")
    if share.numel() and looks_at(share):
        low, high = (float(bound) for bound in share.aminmax())
        if not (low >= 0 and high <= 1):  # also false for NaN
            raise ValueError(f"{name} must lie in [0, 1], got {high if low >= 0 else low}")


def check_dense(name: str, tensor: Tensor) -> None:
    """TypeError for a sparse tensor and its like."""
    if tensor.layout != torch.strided:
        raise TypeError(f"{name} must be a dense tensor, got {tensor.layout}")


def looks_at(tensor: Tensor) -> bool:
    """May its values be checked: on the CPU, outside a compiled graph and torch.func? Elsewhere it costs or raises."""
    if tensor.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    return not torch._C._functorch.is_functorch_wrapped_tensor(tensor)


def shape_of(tensor: Tensor) -> tuple[int, ...]:
    """For messages: `(2, 3)`, not `torch.Size([2, 3])`."""
    return tuple(tensor.shape)
