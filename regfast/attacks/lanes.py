"""What an attack sees of the engine: the lanes it moves, and the model's answer at their points."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import Self

from regfast.ops import philox
from regfast.ops.reference.lanes import choose

__all__ = ["Answer", "Lanes", "Nothing", "Rows", "choose", "empty_lanes", "per_lane", "spread", "times"]


class Rows:
    """A dataclass of tensors with one row a lane; other fields are shared by all lanes."""

    def take(self, index: Tensor) -> Self:
        """The rows `index` (M,) int64, in that order: a narrower set of the same lanes."""
        return dataclasses.replace(  # type: ignore[type-var]
            self, **{name: value.index_select(0, index) for name, value in self.tensors()}
        )

    def tensors(self) -> list[tuple[str, Tensor]]:
        """(name, tensor) of every field that holds one row a lane."""
        fields = [(f.name, getattr(self, f.name)) for f in dataclasses.fields(self)]  # type: ignore[arg-type]
        return [(name, value) for name, value in fields if isinstance(value, Tensor)]


@dataclass
class Lanes(Rows):
    """S lanes, each with one sample in the middle of one run (a restart, or a target) of the attack.

    The engine writes everything but `point`; attacks read it and write `point`, where the model is asked next.
    """

    image: Tensor  # (S, C, H, W) the clean image, in [0, 1]
    point: Tensor  # (S, C, H, W) where the model is asked next
    label: Tensor  # (S,) int64
    target: Tensor  # (S,) int64 the class to move to; -1: away from the label
    sample: Tensor  # (S,) int64 sample ids: they key the random draws
    run: Tensor  # (S,) int64 which run of the sample this is, from 0: all restarts of its first target, then the next
    step: Tensor  # (S,) int64 answers that this run has had before the present one
    eps: float | Tensor | None  # radius of the ball: a number, (S,), or (S, C, H, W) with dimensions of 1
    seed: int
    stage: int  # place in an ensemble: keys the draws too
    has_target: bool  # every lane has a target
    must_reach: bool  # only the target counts (the user's targets); else any wrong class does

    def __len__(self) -> int:
        return len(self.label)

    def full(self, value: float | bool) -> Tensor:
        """(S,) of `value`: float32, or bool. A start for what an attack's state holds."""
        return torch.full_like(self.label, value, dtype=torch.bool if isinstance(value, bool) else torch.float32)

    def radius(self, rows: Tensor | None = None) -> float | Tensor:
        """`eps` of the lanes `rows` (M,) int64, all by default; for attacks that have one."""
        assert self.eps is not None
        return self.eps[rows] if isinstance(self.eps, Tensor) and rows is not None else self.eps

    def succeeded(self, prediction: Tensor, rows: Tensor | None = None) -> Tensor:
        """(S,) bool: is the class `prediction` (S,) int64 what the attack is after? -1, no class, never is.

        Args:
            prediction: by the model at the lanes' points.
            rows: (M,) int64 the lanes that it is about; all by default.
        """
        label, target = (self.label, self.target) if rows is None else (self.label[rows], self.target[rows])
        return prediction == target if self.must_reach else (prediction != label) & (prediction >= 0)

    def uniform(self, count: int, rows: Tensor | None = None, stage: int = 0, step: Tensor | None = None) -> Tensor:
        """Uniform draws (rows, count) float32 in [0, 1), one stream a lane: (seed, sample, stage, run, step) decide.

        Args:
            count: draws per lane.
            rows: (M,) int64 lanes that draw; all by default.
            stage: added to the stage's number times 8: independent streams within one attack, 0 to 7.
            step: (M,) int64 counter; the lanes' step by default.
        """
        return philox.uniform(*self.key(rows, stage, step), count)

    def normal(self, count: int, rows: Tensor | None = None, stage: int = 0, step: Tensor | None = None) -> Tensor:
        """Standard normal draws (rows, count) float32; arguments as in `uniform`."""
        return philox.normal(*self.key(rows, stage, step), count)

    def key(
        self, rows: Tensor | None = None, stage: int = 0, step: Tensor | None = None
    ) -> tuple[int, Tensor, int, Tensor, Tensor]:
        """(seed, sample, stage, restart, step): what a draw of `regfast.ops` depends on; arguments as in `uniform`."""
        sample, run, now = self.sample, self.run, self.step if step is None else step
        if rows is not None:
            sample, run = sample[rows], run[rows]
            now = now[rows] if step is None else now
        return self.seed, sample, self.stage * 8 + stage, run, now


@dataclass
class Answer(Rows):
    """What the model says at the lanes' points."""

    logits: Tensor  # (S, K) float32
    prediction: Tensor  # (S,) int64 lowest index among the largest logits; -1 where one is NaN
    loss: Tensor  # (S,) the attack's objective, which it raises
    gradient: (
        Tensor  # (S, C, H, W) of the objective; (S, K, C, H, W) of every logit for "jacobian"; (S, 0) for "forward"
    )


@dataclass
class Nothing(Rows):
    """The state of an attack that keeps none."""


def empty_lanes(
    images: Tensor, width: int, device: torch.device, *, seed: int, stage: int, has_target: bool, must_reach: bool,
    eps: float | Tensor | None,
) -> Lanes:  # fmt: skip
    """`width` empty lanes on `device` for images like `images` (N, C, H, W); the rest as in `Lanes`."""
    image = images.new_zeros(width, *images.shape[1:], device=device)
    integers = torch.zeros(width, dtype=torch.int64, device=device)
    return Lanes(
        image=image, point=image.clone(), label=integers, target=integers - 1, sample=integers.clone(),
        run=integers.clone(), step=integers.clone(), eps=eps, seed=seed, stage=stage, has_target=has_target,
        must_reach=must_reach,
    )  # fmt: skip


def per_lane(values: Tensor, like: Tensor) -> Tensor:
    """(S,) values shaped (S, 1, 1, 1) to go with lanes of images."""
    return values.view(-1, *[1] * (like.ndim - 1))


def spread(values: float | Tensor, like: Tensor) -> float | Tensor:
    """A number, (S,) values or ones for each entry, shaped to go with lanes of images."""
    return per_lane(values, like) if isinstance(values, Tensor) and values.ndim == 1 else values


def times(factor: Tensor, eps: float | Tensor) -> Tensor:
    """(S,) factors times a radius: (S,), or the shape of `eps`."""
    return factor * eps if not isinstance(eps, Tensor) or eps.ndim == 1 else per_lane(factor, eps) * eps
