"""The norms as objects: how far (`distance`), which way is up (`ascent`), back into ball and box (`project`).

Steps and starts are one fused op each (regfast.ops.perturbation).
"""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from torch import Tensor

from regfast.attacks.lanes import Lanes, per_lane, spread
from regfast.ops import perturbation
from regfast.ops.lanes import near_one

TINY = 1e-12


class Norm(Protocol):
    """A perturbation's norm. Radii and step sizes are numbers, or one a lane (S,); in linf also one an entry."""

    @property
    def name(self) -> Literal["linf", "l2", "l1"]:
        """What `norm_of` knows it by."""

    def distance(self, delta: Tensor) -> Tensor:
        """(S,) norm of each row of `delta` (S, C, H, W)."""

    def within(self, delta: Tensor, eps: float | Tensor, slack: float = 0.0) -> Tensor:
        """(S,) bool: rows of `delta` (S, C, H, W) inside the ball, whose radius may be `slack` larger."""

    def dual(self, gradient: Tensor) -> Tensor:
        """(S,) dual norm: how fast a linear function with this gradient can rise per unit of distance."""

    def ascent(self, gradient: Tensor) -> Tensor:
        """A direction of norm 1 (S, C, H, W) in which a linear function with this gradient rises."""

    def project(self, point: Tensor, image: Tensor, eps: float | Tensor) -> Tensor:
        """Into the ball of radius `eps` around `image`, and the box [0, 1]."""

    def step(self, point: Tensor, gradient: Tensor, image: Tensor, size: float | Tensor, eps: float | Tensor) -> Tensor:
        """`size` along the ascent direction, then `project`."""

    def momentum_step(
        self, point: Tensor, gradient: Tensor, previous: Tensor, image: Tensor, size: Tensor,
        eps: float | Tensor, share: Tensor,
    ) -> Tensor:  # fmt: skip
        """APGD's move: x + share · (step(x) - x) + (1 - share) · (x - previous), projected."""

    def random_start(self, lanes: Lanes, rows: Tensor, eps: float | Tensor) -> Tensor:
        """Points (M, C, H, W) drawn in the ball around the images of the lanes `rows`, clamped to the box (PGD's)."""

    def far_start(self, lanes: Lanes, rows: Tensor, eps: float | Tensor) -> Tensor:
        """Points drawn on the sphere, clamped to the box (APGD's)."""


class _Fused:
    """What the norms share: the fused ops, told the norm by name."""

    name: Literal["linf", "l2", "l1"]

    def distance(self, delta: Tensor) -> Tensor:
        raise NotImplementedError

    def within(self, delta: Tensor, eps: float | Tensor, slack: float = 0.0) -> Tensor:
        return self.distance(delta) <= eps + slack

    def step(self, point: Tensor, gradient: Tensor, image: Tensor, size: float | Tensor, eps: float | Tensor) -> Tensor:
        return perturbation.perturb_step(point, gradient, image, eps, size, self.name)

    def momentum_step(
        self, point: Tensor, gradient: Tensor, previous: Tensor, image: Tensor, size: Tensor,
        eps: float | Tensor, share: Tensor,
    ) -> Tensor:  # fmt: skip
        return perturbation.perturb_step(point, gradient, image, eps, size, self.name, previous, share)

    def random_start(self, lanes: Lanes, rows: Tensor, eps: float | Tensor) -> Tensor:
        return perturbation.random_start(lanes.image[rows], eps, self.name, *lanes.key(rows), start="ball")

    def far_start(self, lanes: Lanes, rows: Tensor, eps: float | Tensor) -> Tensor:
        return perturbation.random_start(lanes.image[rows], eps, self.name, *lanes.key(rows), start="sphere")


class Linf(_Fused):
    """Largest absolute entry."""

    name: Literal["linf", "l2", "l1"] = "linf"

    def distance(self, delta: Tensor) -> Tensor:
        return delta.flatten(1).abs().amax(1)

    def within(self, delta: Tensor, eps: float | Tensor, slack: float = 0.0) -> Tensor:
        return (delta.abs() <= spread(eps, delta) + slack).flatten(1).all(1)

    def dual(self, gradient: Tensor) -> Tensor:
        return gradient.flatten(1).abs().sum(1)

    def ascent(self, gradient: Tensor) -> Tensor:
        return gradient.sign()

    def project(self, point: Tensor, image: Tensor, eps: float | Tensor) -> Tensor:
        radius = spread(eps, image)
        return torch.minimum(torch.maximum(point, image - radius), image + radius).clamp_(0, 1)

    # A radius for each entry is rare: plain PyTorch, the fused ops know one a row.
    def step(self, point: Tensor, gradient: Tensor, image: Tensor, size: float | Tensor, eps: float | Tensor) -> Tensor:
        if _by_row(eps) and _by_row(size):
            return super().step(point, gradient, image, size, eps)
        return self.project(point + spread(size, point) * gradient.sign(), image, eps)

    def momentum_step(
        self, point: Tensor, gradient: Tensor, previous: Tensor, image: Tensor, size: Tensor,
        eps: float | Tensor, share: Tensor,
    ) -> Tensor:  # fmt: skip
        if _by_row(eps):
            return super().momentum_step(point, gradient, previous, image, size, eps, share)
        moved, share = self.step(point, gradient, image, size, eps), per_lane(share, point)
        return self.project(point + share * (moved - point) + (1 - share) * (point - previous), image, eps)

    def random_start(self, lanes: Lanes, rows: Tensor, eps: float | Tensor) -> Tensor:
        if _by_row(eps):
            return super().random_start(lanes, rows, eps)
        image = lanes.image[rows]
        draws = 2 * lanes.uniform(image[0].numel(), rows).view_as(image) - 1
        return (image + eps * draws).clamp(0, 1)

    def far_start(self, lanes: Lanes, rows: Tensor, eps: float | Tensor) -> Tensor:
        if _by_row(eps):
            return super().far_start(lanes, rows, eps)
        image = lanes.image[rows]
        draws = 2 * lanes.uniform(image[0].numel(), rows).view_as(image) - 1
        return (image + eps * draws / per_lane(self.distance(draws) + TINY, draws)).clamp(0, 1)


class L2(_Fused):
    """Euclidean norm."""

    name: Literal["linf", "l2", "l1"] = "l2"

    def distance(self, delta: Tensor) -> Tensor:
        return torch.linalg.vector_norm(delta.flatten(1), dim=1)

    def dual(self, gradient: Tensor) -> Tensor:
        return torch.linalg.vector_norm(gradient.flatten(1), dim=1)

    def ascent(self, gradient: Tensor) -> Tensor:
        gradient = near_one(gradient)
        return gradient / per_lane(self.distance(gradient) + TINY, gradient)

    def step(self, point: Tensor, gradient: Tensor, image: Tensor, size: float | Tensor, eps: float | Tensor) -> Tensor:
        return super().step(point, near_one(gradient), image, size, eps)

    def momentum_step(
        self, point: Tensor, gradient: Tensor, previous: Tensor, image: Tensor, size: Tensor,
        eps: float | Tensor, share: Tensor,
    ) -> Tensor:  # fmt: skip
        return super().momentum_step(point, near_one(gradient), previous, image, size, eps, share)

    def project(self, point: Tensor, image: Tensor, eps: float | Tensor) -> Tensor:
        delta = point - image
        scale = torch.clamp(eps / (self.distance(delta) + TINY), max=1.0)
        return (image + delta * per_lane(scale, delta)).clamp_(0, 1)


class L1(_Fused):
    """Sum of absolute entries. Its ascent is spread over the largest 1 % of the entries (SLIDE, arXiv 1904.13000)."""

    name: Literal["linf", "l2", "l1"] = "l1"
    share = 0.01

    def distance(self, delta: Tensor) -> Tensor:
        return delta.flatten(1).abs().sum(1)

    def dual(self, gradient: Tensor) -> Tensor:
        return gradient.flatten(1).abs().amax(1)

    def ascent(self, gradient: Tensor) -> Tensor:
        magnitude = gradient.flatten(1).abs()
        count = max(int(self.share * magnitude.shape[1]), 1)
        threshold = magnitude.topk(count, dim=1).values[:, -1:]
        sparse = torch.where(magnitude >= threshold, gradient.flatten(1).sign(), 0.0)
        return (sparse / (sparse.abs().sum(1, keepdim=True) + TINY)).view_as(gradient)

    def project(self, point: Tensor, image: Tensor, eps: float | Tensor) -> Tensor:
        return image + perturbation.l1_box_projection(image, point - image, self.inner(image, eps))

    def step(self, point: Tensor, gradient: Tensor, image: Tensor, size: float | Tensor, eps: float | Tensor) -> Tensor:
        # Entries at the box's edge that would leave it are worth nothing: spend the step on others.
        blocked = ((point >= 1) & (gradient > 0)) | ((point <= 0) & (gradient < 0))
        gradient = gradient.masked_fill(blocked, 0.0)
        return self.sparse_step(point, gradient, image, size, eps, self.share)

    def sparse_step(
        self, point: Tensor, gradient: Tensor, image: Tensor, size: float | Tensor, eps: float | Tensor,
        share: float | Tensor,
    ) -> Tensor:  # fmt: skip
        """`size` along the signs of the largest `share` of the gradient's entries, then `project`."""
        return perturbation.perturb_step(
            point, gradient, image, self.inner(image, eps), size, self.name, sparsity=share
        )

    def random_start(self, lanes: Lanes, rows: Tensor, eps: float | Tensor) -> Tensor:
        return self.far_start(lanes, rows, eps)

    def far_start(self, lanes: Lanes, rows: Tensor, eps: float | Tensor) -> Tensor:
        image = lanes.image[rows]
        return perturbation.random_start(image, self.inner(image, eps), self.name, *lanes.key(rows))

    def inner(self, image: Tensor, eps: float | Tensor) -> float | Tensor:
        """A radius so little below eps that rounding `image + delta` in many entries can't carry the sum over eps."""
        slack = 2.0**-24 * (image.numel() / max(len(image), 1)) ** 0.5
        return torch.maximum(eps - slack, 0.999 * eps) if isinstance(eps, Tensor) else max(eps - slack, 0.999 * eps)


def _by_row(values: float | Tensor) -> bool:
    return not isinstance(values, Tensor) or values.ndim == 1


NORMS: dict[str, Norm] = {"linf": Linf(), "l2": L2(), "l1": L1()}


def norm_of(name: str | Norm) -> Norm:
    """The norm called "linf", "l2" or "l1"; a norm object passes through."""
    if not isinstance(name, str) and hasattr(name, "project"):
        return name
    if not isinstance(name, str) or name not in NORMS:
        raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {str(name)!r:.80}")
    return NORMS[name]
