"""What the engine found in each lane: the point that counts and waits for its confirmation, and the nearest one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from regfast.attacks.lanes import Answer, Lanes, Rows, per_lane
from regfast.attacks.rules import Rules


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

    def judge(self, attack: Rules, lanes: Lanes, state: Rows, answer: Answer, *, late: bool) -> None:
        """Mark the lanes whose point counts, and keep those points until the host has seen them.

        Args:
            late: the host looks one step later, so points are copied; else it looks at once.
        """
        # A sample that waits for the host has had all its answers.
        hit = lanes.succeeded(answer.prediction) & attack.hit(lanes, state, answer) & (lanes.step <= attack.steps)
        distance = self.distance
        if attack.minimal_norm or late:
            distance = attack.norm.distance(lanes.point - lanes.image)
        if attack.minimal_norm:
            if attack.seeks_nearest:
                hit &= distance < torch.where(self.hit, self.distance, self.nearest_distance)
            else:
                hit &= attack.norm.within(lanes.point - lanes.image, lanes.radius())
        if late and not attack.seeks_nearest:
            hit &= ~self.hit
        if not late:
            self.point, self.hit = lanes.point, hit
            self.distance, self.loss, self.prediction = distance, answer.loss, answer.prediction
            return
        keep = hit | (~self.hit & (lanes.step == attack.steps))  # what counts, else the run's last point
        self.point = torch.where(per_lane(keep, lanes.point), lanes.point, self.point)
        self.distance = torch.where(keep, distance, self.distance)
        self.loss = torch.where(keep, answer.loss, self.loss)
        self.prediction = torch.where(keep, answer.prediction, self.prediction)
        self.hit = self.hit | hit

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
