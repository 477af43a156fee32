"""The norms as objects: how far (`distance`), which way is up (`ascent`), back into ball and box (`project`)."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from regfast.attacks.lanes import Lanes, per_lane

TINY = 1e-12


class Norm(Protocol):
    """A perturbation's norm. Radii and step sizes are numbers, or one a lane (S,)."""

    name: str

    def distance(self, delta: Tensor) -> Tensor:
        """(S,) norm of each row of `delta` (S, C, H, W)."""

    def ascent(self, gradient: Tensor) -> Tensor:
        """The direction of norm 1 (S, C, H, W) in which a linear function with this gradient rises most."""

    def dual(self, gradient: Tensor) -> Tensor:
        """(S,) dual norm: how fast a linear function with this gradient can rise per unit of distance."""

    def project(self, point: Tensor, image: Tensor, eps: float | Tensor) -> Tensor:
        """Into the ball of radius `eps` around `image`, and the box [0, 1]."""

    def step(self, point: Tensor, gradient: Tensor, image: Tensor, size: float | Tensor, eps: float | Tensor) -> Tensor:
        """`size` along the ascent direction, then `project`."""

    def momentum_step(
        self, point: Tensor, gradient: Tensor, previous: Tensor, image: Tensor, size: Tensor, eps: float, share: Tensor
    ) -> Tensor:
        """APGD's move: x + share · (step(x) - x) + (1 - share) · (x - previous), projected."""

    def random_start(self, lanes: Lanes, rows: Tensor, eps: float) -> Tensor:
        """Points (M, C, H, W) drawn in the ball and box around the images of the lanes `rows` (PGD's start)."""

    def far_start(self, lanes: Lanes, rows: Tensor, eps: float) -> Tensor:
        """Points drawn on the sphere, then clamped to the box (APGD's start)."""


def norm_of(name: str | Norm) -> Norm:
    """The norm called "linf", "l2" or "l1"; a norm object passes through."""
    if not isinstance(name, str):
        return name
    if name not in NORMS:
        raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {name!r}")
    return NORMS[name]


def _column(value: float | Tensor, like: Tensor) -> float | Tensor:
    return per_lane(value, like) if isinstance(value, Tensor) else value


def _draws(lanes: Lanes, rows: Tensor, normal: bool) -> Tensor:
    image = lanes.image[rows]
    draw = lanes.normal if normal else lanes.uniform
    return draw(image[0].numel() if len(rows) else 0, rows).view_as(image)


def _momentum_step(
    norm: Norm, point: Tensor, gradient: Tensor, previous: Tensor, image: Tensor, size: Tensor, eps: float,
    share: Tensor,
) -> Tensor:  # fmt: skip
    share = per_lane(share, point)
    moved = norm.step(point, gradient, image, size, eps)
    return norm.project(point + share * (moved - point) + (1 - share) * (point - previous), image, eps)


class Linf:
    """Largest absolute entry."""

    name = "linf"

    def distance(self, delta: Tensor) -> Tensor:
        return delta.flatten(1).abs().amax(1)

    def ascent(self, gradient: Tensor) -> Tensor:
        return gradient.sign()

    def dual(self, gradient: Tensor) -> Tensor:
        return gradient.flatten(1).abs().sum(1)

    def project(self, point: Tensor, image: Tensor, eps: float | Tensor) -> Tensor:
        radius = _column(eps, image)
        return torch.minimum(torch.maximum(point, image - radius), image + radius).clamp_(0, 1)

    def step(self, point: Tensor, gradient: Tensor, image: Tensor, size: float | Tensor, eps: float | Tensor) -> Tensor:
        return self.project(point + _column(size, point) * gradient.sign(), image, eps)

    def momentum_step(
        self, point: Tensor, gradient: Tensor, previous: Tensor, image: Tensor, size: Tensor, eps: float, share: Tensor
    ) -> Tensor:
        return _momentum_step(self, point, gradient, previous, image, size, eps, share)

    def random_start(self, lanes: Lanes, rows: Tensor, eps: float) -> Tensor:
        return (lanes.image[rows] + eps * (2 * _draws(lanes, rows, False) - 1)).clamp_(0, 1)

    def far_start(self, lanes: Lanes, rows: Tensor, eps: float) -> Tensor:
        noise = 2 * _draws(lanes, rows, False) - 1
        scale = eps / (self.distance(noise) + TINY)
        return (lanes.image[rows] + noise * per_lane(scale, noise)).clamp_(0, 1)


class L2:
    """Euclidean norm."""

    name = "l2"

    def distance(self, delta: Tensor) -> Tensor:
        return torch.linalg.vector_norm(delta.flatten(1), dim=1)

    def ascent(self, gradient: Tensor) -> Tensor:
        return gradient / per_lane(self.distance(gradient) + TINY, gradient)

    def dual(self, gradient: Tensor) -> Tensor:
        return torch.linalg.vector_norm(gradient.flatten(1), dim=1)

    def project(self, point: Tensor, image: Tensor, eps: float | Tensor) -> Tensor:
        delta = point - image
        length = self.distance(delta)
        scale = torch.clamp(eps / (length + TINY), max=1.0)
        return (image + delta * per_lane(scale, delta)).clamp_(0, 1)

    def step(self, point: Tensor, gradient: Tensor, image: Tensor, size: float | Tensor, eps: float | Tensor) -> Tensor:
        return self.project(point + _column(size, point) * self.ascent(gradient), image, eps)

    def momentum_step(
        self, point: Tensor, gradient: Tensor, previous: Tensor, image: Tensor, size: Tensor, eps: float, share: Tensor
    ) -> Tensor:
        return _momentum_step(self, point, gradient, previous, image, size, eps, share)

    def random_start(self, lanes: Lanes, rows: Tensor, eps: float) -> Tensor:
        radius = lanes.uniform(1, rows, stage=1)[:, 0]
        noise = self.ascent(_draws(lanes, rows, True))
        return (lanes.image[rows] + noise * per_lane(eps * radius, noise)).clamp_(0, 1)

    def far_start(self, lanes: Lanes, rows: Tensor, eps: float) -> Tensor:
        return (lanes.image[rows] + eps * self.ascent(_draws(lanes, rows, True))).clamp_(0, 1)


class L1:
    """Sum of absolute entries. Its ascent is spread over the largest 5 % of the entries (SLIDE, arXiv 1904.13000)."""

    name = "l1"
    share = 0.05

    def distance(self, delta: Tensor) -> Tensor:
        return delta.flatten(1).abs().sum(1)

    def ascent(self, gradient: Tensor) -> Tensor:
        size = gradient[0].numel() if len(gradient) else 1
        count = max(int(self.share * size), 1)
        magnitude = gradient.flatten(1).abs()
        threshold = magnitude.topk(count, dim=1).values[:, -1:]
        sparse = torch.where(magnitude >= threshold, gradient.flatten(1).sign(), 0.0)
        return (sparse / (sparse.abs().sum(1, keepdim=True) + TINY)).view_as(gradient)

    def dual(self, gradient: Tensor) -> Tensor:
        return gradient.flatten(1).abs().amax(1)

    def project(self, point: Tensor, image: Tensor, eps: float | Tensor) -> Tensor:
        # Rounding of image + delta can add to the sum of many entries: leave room for it, so that eps holds.
        slack = 2.0**-24 * image[0].numel() ** 0.5 if len(image) else 0.0
        radius = torch.as_tensor(eps, device=image.device)
        return image + l1_box_projection(image, point - image, torch.maximum(radius - slack, 0.999 * radius))

    def step(self, point: Tensor, gradient: Tensor, image: Tensor, size: float | Tensor, eps: float | Tensor) -> Tensor:
        # Entries at the box's edge that would leave it are worth nothing: spend the step on others.
        blocked = ((point >= 1) & (gradient > 0)) | ((point <= 0) & (gradient < 0))
        way = self.ascent(gradient.masked_fill(blocked, 0.0))
        return self.project(point + _column(size, point) * way, image, eps)

    def momentum_step(
        self, point: Tensor, gradient: Tensor, previous: Tensor, image: Tensor, size: Tensor, eps: float, share: Tensor
    ) -> Tensor:
        return _momentum_step(self, point, gradient, previous, image, size, eps, share)

    def random_start(self, lanes: Lanes, rows: Tensor, eps: float) -> Tensor:
        return self.far_start(lanes, rows, eps)

    def far_start(self, lanes: Lanes, rows: Tensor, eps: float) -> Tensor:
        image = lanes.image[rows]
        return self.project(image + _draws(lanes, rows, True), image, eps)


def l1_box_projection(image: Tensor, delta: Tensor, eps: float | Tensor) -> Tensor:
    """The nearest perturbation to `delta` (S, C, H, W) with l1 norm ≤ eps and image + it in [0, 1] (Euclidean).

    Shrinking every entry by one λ ≥ 0 per lane and then clipping it to its room in the box solves it: entry i becomes
    sign(δ_i) · clip(|δ_i| - λ, 0, room_i), whose sum falls with λ in straight pieces that break at |δ_i| and
    |δ_i| - room_i (Croce and Hein 2021, arXiv 2103.01208, proposition 2.1).
    """
    shape = delta.shape
    image, delta = image.flatten(1), delta.flatten(1)
    room = torch.where(delta > 0, 1 - image, image)
    magnitude = delta.abs()
    radius = eps.unsqueeze(1) if isinstance(eps, Tensor) and eps.ndim else eps
    # Walking down in λ from the largest break, the sum rises by 1 per unit for each entry between its two breaks.
    breaks = torch.cat((magnitude, magnitude - room), 1)
    turns = torch.cat((torch.ones_like(magnitude), -torch.ones_like(room)), 1)
    ordered, order = breaks.sort(dim=1, descending=True)
    slope = turns.double().gather(1, order).cumsum(1)
    rise = torch.cat(
        (torch.zeros_like(ordered[:, :1]), (slope[:, :-1] * (ordered[:, :-1] - ordered[:, 1:])).cumsum(1)), 1
    )
    # The last break at which the sum is still within the radius, and what is left of the radius below it.
    inside = (rise <= radius).sum(1, keepdim=True) - 1
    inside = inside.clamp_(min=0)
    left = radius - rise.gather(1, inside)
    cut = ordered.gather(1, inside) - left / slope.gather(1, inside).clamp(min=1)
    shrunk = (magnitude - cut.clamp(min=0)).clamp_(min=0).minimum(room)
    return (delta.sign() * shrunk).view(shape).to(delta.dtype)


NORMS: dict[str, Norm] = {"linf": Linf(), "l2": L2(), "l1": L1()}
