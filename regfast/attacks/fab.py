"""FAB, the fast adaptive boundary attack: Croce and Hein 2020, "Minimally distorted adversarial examples with a fast
adaptive boundary attack" (arXiv 1907.02044), algorithm 1; FAB-T is its targeted form."""

from __future__ import annotations

import torch
from torch import Tensor

from regfast.attacks.base import Attack
from regfast.attacks.lanes import Answer, Lanes, Nothing, per_lane
from regfast.attacks.norms import TINY, Norm, norm_of
from regfast.attacks.registry import ATTACKS
from regfast.attacks.rules import Eps, Plan, checked_count, checked_eps, checked_levels, checked_number
from regfast.attacks.target_order import by_rank
from regfast.ops.boundary import boundary_step

START_RADIUS = {"linf": 0.3, "l2": 1.0, "l1": 5.0}  # of restarts of a search without eps


@ATTACKS.register("fab")
class FAB(Attack):
    """Step to the linearized decision boundary, drawn towards the clean image; step back once across it.

    It asks for input gradients only, one a point: a point across the boundary also gives the plane for the move after
    the step back, so that a move costs one evaluation, wherever it ends.

    Args:
        norm: "linf", "l2" or "l1".
        eps: radius that decides success: a sample leaves once it has an adversarial point inside. None looks for the
            nearest adversarial point with all steps.
        steps: moves per run.
        restarts: runs per sample (and target); all but the first begin at a random point within eps / 2.
        targets: n > 0 is FAB-T: runs to the boundaries of the n most likely other classes, one after the other. With 0
            each move goes to the nearest of all classes' boundaries, at one gradient a class.
        alpha_max: most that a move is drawn towards the clean image, 0 to 1.
        eta: overshoot of the boundary, ≥ 1.
        beta: what is left of the perturbation after the step back, 0 to 1.
        levels: find points with so many levels a pixel (256: images that a PNG holds exactly); None for any.
    """

    minimal_norm = True
    loss = "margin"

    def __init__(
        self,
        norm: str | Norm = "linf",
        eps: Eps | None = 8 / 255,
        steps: int = 100,
        restarts: int = 1,
        *,
        targets: int = 0,
        alpha_max: float = 0.1,
        eta: float = 1.05,
        beta: float = 0.9,
        levels: int | None = None,
    ):
        self.norm = norm_of(norm)
        self.eps = None if eps is None else checked_eps(eps)
        self.steps = checked_count("steps", steps)
        self.runs = checked_count("restarts", restarts)
        self.targets = checked_count("targets", targets, least=0)
        self.alpha_max = checked_number("alpha_max", alpha_max, 0, 1)
        self.eta, self.beta = checked_number("eta", eta, 1, 2), checked_number("beta", beta, 0, 1)
        self.levels = checked_levels(levels)
        self.name = "fab-t" if targets else "fab"
        self.needs = "gradient" if targets else "jacobian"

    def plan(self, model: object, images: Tensor, labels: Tensor, logits: Tensor) -> Plan | None:
        if not self.targets:
            return None
        return Plan(by_rank(labels, logits)[:, : self.targets])

    def start(self, lanes: Lanes, state: Nothing, fresh: Tensor) -> None:
        begin = lanes.image[fresh]
        if self.runs > 1:
            radius = START_RADIUS[self.norm.name] if self.eps is None else lanes.radius(fresh)
            drawn = self.norm.far_start(lanes, fresh, radius / 2)
            begin = torch.where(per_lane(lanes.run[fresh] % self.runs > 0, begin), drawn, begin)
        lanes.point[fresh] = begin

    def advance(self, lanes: Lanes, state: Nothing, answer: Answer) -> None:
        rise, slope = self._boundary(lanes, answer)
        across = lanes.succeeded(answer.prediction)
        lanes.point = boundary_step(
            lanes.point, lanes.image, rise, slope, across, self._overshoot(lanes), self.alpha_max, self.beta,
            self.norm.name,
        )  # fmt: skip

    def _overshoot(self, lanes: Lanes) -> float | Tensor:
        """How far past the plane: in a search for the nearest point, less and less over its last moves."""
        if self.eps is not None:
            return self.eta
        late = (lanes.step.float() / self.steps - 0.8).clamp(0, 0.2) / 0.2
        return 1 + (self.eta - 1) * 0.01**late

    def _boundary(self, lanes: Lanes, answer: Answer) -> tuple[Tensor, Tensor]:
        """The margin (S,) of the class to move to over the label, and its gradient (S, D), at the points asked."""
        if self.targets:
            return answer.loss, answer.gradient.flatten(1)
        logits, slopes = answer.logits, answer.gradient.flatten(2)
        home = (lanes.target if lanes.must_reach else lanes.label).unsqueeze(1)
        rise = logits - logits.gather(1, home)
        slopes = (slopes - slopes.gather(1, home.unsqueeze(2).expand(-1, 1, slopes.shape[2]))).nan_to_num_()
        if lanes.must_reach:  # the class to overtake, as it rises over the target
            nearest = rise.scatter(1, home, -torch.inf).argmax(1, keepdim=True)
            rise, slopes = -rise, -slopes
        else:
            length = self.norm.dual(slopes.flatten(0, 1)).view_as(rise)
            nearest = (rise.abs() / (length + TINY)).scatter(1, home, torch.inf).argmin(1, keepdim=True)
        chosen = slopes.gather(1, nearest.unsqueeze(2).expand(-1, 1, slopes.shape[2]))
        return rise.gather(1, nearest).squeeze(1), chosen.squeeze(1)
