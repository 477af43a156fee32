"""What the engine found in each lane: the point that counts and waits for its confirmation, and the nearest one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from regfast.attacks.lanes import Answer, Lanes, Rows, per_lane
from regfast.attacks.rules import Rules
from regfast.ops.lanes import judge

ROUNDING = 1e-6


@dataclass
class Found(Rows):
    """One row a lane; attacks don't see it."""

    point: Tensor  # (S, C, H, W) where `hit`, a point that counts once it is confirmed; else the last one of a run
    hit: Tensor  # (S,) bool
    distance: Tensor  # (S,)
    loss: Tensor  # (S,)
    prediction: Tensor  # (S,) int64
    nearest: Tensor  # (S, C, H, W) the nearest confirmed point, for attacks that look for it
    nearest_distance: Tensor  # (S,) inf where there is none
    nearest_loss: Tensor  # (S,)
    nearest_prediction: Tensor  # (S,) int64

    def judge(self, attack: Rules, lanes: Lanes, state: Rows, answer: Answer, *, late: bool) -> tuple[Tensor, Tensor]:
        """Mark the lanes whose point counts, and keep those points until the host has seen them.

        Args:
            late: the host looks one step later, so points are copied; else it looks at once.

        Returns:
            (S,) `lanes.step`, of at most `attack.steps`: a sample that waits for the host stays at its last move; and
            that plus one.
        """
        may = attack.hit(lanes, state, answer)
        if attack.minimal_norm and not attack.seeks_nearest:
            # The difference of two levels is rounded: it may seem to lie beyond an eps of 1/255.
            slack = 0.0 if attack.levels is None else ROUNDING
            inside = attack.norm.within(lanes.point - lanes.image, lanes.radius(), slack)
            may = inside if may is None else may & inside
        if late and not attack.seeks_nearest:
            self.hit, *steps = judge(
                lanes.point, answer.loss, answer.prediction, lanes.target if lanes.must_reach else lanes.label,
                lanes.step, self.hit, may, self.point, self.loss, self.prediction, reach=lanes.must_reach,
                steps=attack.steps,
            )  # fmt: skip
            return steps[0], steps[1]
        # A sample that waits for the host has had all its answers.
        hit = lanes.succeeded(answer.prediction) & (lanes.step <= attack.steps)
        if may is not None:
            hit &= may
        distance = self.distance
        if attack.seeks_nearest:
            distance = attack.norm.distance(lanes.point - lanes.image)
            hit &= distance < torch.where(self.hit, self.distance, self.nearest_distance)
        if not late:
            self.point, self.hit = lanes.point, hit
            self.distance, self.loss, self.prediction = distance, answer.loss, answer.prediction
        else:
            keep = hit | (~self.hit & (lanes.step == attack.steps))  # what counts, else the run's last point
            self.point = torch.where(per_lane(keep, lanes.point), lanes.point, self.point)
            self.distance = torch.where(keep, distance, self.distance)
            self.loss = torch.where(keep, answer.loss, self.loss)
            self.prediction = torch.where(keep, answer.prediction, self.prediction)
            self.hit = self.hit | hit
        held = lanes.step.clamp(max=attack.steps)
        return held, held + 1

    def forget(self, rows: Tensor) -> None:
        """New samples in the lanes `rows` (M,) int64."""
        self.hit[rows] = False
        self.nearest_distance[rows] = torch.inf

    def keep_nearest(self, rows: Tensor, right: Tensor, prediction: Tensor) -> None:
        """Points in the lanes `rows` (M,) int64 are confirmed where `right` (M,) bool, as of the class `prediction`."""
        for kept, new in (
            (self.nearest, self.point[rows]),
            (self.nearest_distance, self.distance[rows]),
            (self.nearest_loss, self.loss[rows]),
            (self.nearest_prediction, prediction),
        ):
            kept[rows] = torch.where(per_lane(right, new), new, kept[rows])


def nothing_found(lanes: Lanes, *, late: bool, seeks_nearest: bool) -> Found:
    """For new lanes: with room for points that wait for a late host, and for the nearest ones, if asked."""
    nothing = lanes.image[:, :0]
    return Found(
        point=lanes.image.clone() if late else nothing,
        hit=lanes.full(False),
        distance=lanes.full(0.0),
        loss=lanes.full(0.0),
        prediction=lanes.label.clone(),
        nearest=lanes.image.clone() if seeks_nearest else nothing,
        nearest_distance=lanes.full(torch.inf),
        nearest_loss=lanes.full(0.0),
        nearest_prediction=lanes.label.clone(),
    )
