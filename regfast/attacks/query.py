"""One evaluation of the model at the lanes' points: what it answers, and the gradients that the attack needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from regfast.attacks.classifier import Model
from regfast.attacks.lanes import Answer, Lanes, Rows, per_lane
from regfast.attacks.losses import Objective, mean_answer, predicted
from regfast.attacks.rules import Rules

SURE = 4.0  # standard errors
PATIENCE = 5


def confirmed(attack: Rules, model: Model, points: Tensor, lanes: Lanes, rows: Tensor) -> tuple[Tensor, Tensor, int]:
    """What the model as given says of points that may count.

    A run asks at hundreds of points, and among so many means of a few random answers some are wrong by luck even where
    the model is right. So fresh answers decide, and where `attack.samples` > 1 the lead of the class over the label
    (over the runner-up, where a target must be reached) has to be SURE times its standard error; the model is asked up
    to PATIENCE times for `attack.samples` answers until it is.

    Args:
        points: (M, C, H, W).
        lanes, rows: (M,) int64 the lanes that they are about.

    Returns:
        (M,) int64 the class of the mean answer, (M,) bool whether that is beyond luck, and the answers of each point.
    """
    answers: list[Tensor] = []
    while True:
        answers += [model(points).float() for _ in range(attack.samples)]
        prediction = predicted(mean_answer(answers))
        if attack.samples == 1:
            return prediction, torch.ones_like(prediction, dtype=torch.bool), 1
        sure = _lead(answers, prediction, lanes, rows)
        unsure = lanes.succeeded(prediction, rows) & ~sure
        if len(answers) >= PATIENCE * attack.samples or not bool(unsure.any()):
            return prediction, sure, len(answers)


def _lead(answers: Sequence[Tensor], prediction: Tensor, lanes: Lanes, rows: Tensor) -> Tensor:
    """(M,) bool: the class `prediction` leads by SURE standard errors in the mean of `answers`, (M, K) each."""
    each, chosen = torch.stack(tuple(answers)), prediction.clamp(min=0).unsqueeze(1)
    other = lanes.label[rows].unsqueeze(1)
    if lanes.must_reach:
        other = each.mean(0).scatter(1, chosen, -torch.inf).argmax(1, keepdim=True)
    lead = each.gather(2, chosen.expand(len(each), -1, 1)) - each.gather(2, other.expand(len(each), -1, 1))
    return (lead.mean(0) > SURE * lead.std(0) / len(each) ** 0.5).squeeze(1)


def query(
    attack: Rules,
    model: Model,
    lanes: Lanes,
    state: Rows,
    *,
    gradient: bool,
    some_end: bool,
    objective: Callable[[Tensor], Objective] | None = None,
) -> tuple[Answer, int]:
    """The mean of the model's `attack.samples` answers, and what it took: input gradients per lane.

    Args:
        gradient: some lane needs a gradient.
        some_end: some run has its last answer here (`step` ≥ `attack.steps`): its gradient is 0.
        objective: of logits (S, K) float32; the attack's own by default.
    """
    raised = objective or (lambda logits: attack.objective(lanes, state, logits))
    answers = zip(*(_once(attack, model, lanes, raised, gradient) for _ in range(attack.samples)), strict=True)
    logits, loss, slope = (mean_answer(each) for each in answers)
    if gradient and some_end:
        slope = slope.masked_fill(per_lane(lanes.step >= attack.steps, slope), 0)
    per_answer = logits.shape[1] if attack.needs == "jacobian" else 1
    answer = Answer(logits, predicted(logits), loss, slope.contiguous())
    return answer, attack.samples * per_answer * gradient


def _once(
    attack: Rules, model: Model, lanes: Lanes, raised: Callable[[Tensor], Objective], gradient: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """(logits float32, loss, gradient) of one answer; the gradient is 0 where it is not wanted."""
    point = lanes.point.detach().requires_grad_(gradient)
    with torch.set_grad_enabled(gradient):
        answer = model(point)

    def pulled(direction: Tensor, keep: bool = False) -> Tensor:
        slope = None
        if answer.requires_grad:
            (slope,) = torch.autograd.grad(answer, point, direction, retain_graph=keep, allow_unused=True)
        if slope is None:
            raise ValueError(
                f"{attack.name} needs input gradients, but the model's output does not depend on its input in a "
                "differentiable way; Square asks for none"
            )
        return slope.nan_to_num(0.0)  # an infinite logit's; NaN would stay in the point for good

    logits = answer.detach().float()
    objective = raised(logits)
    if attack.needs == "forward":
        slope = point.new_empty(len(lanes), 0)
    elif attack.needs == "gradient":
        slope = pulled(objective.gradient.to(answer.dtype)) if gradient else torch.zeros_like(point)
    elif gradient:
        units = torch.eye(answer.shape[1], dtype=answer.dtype, device=answer.device)
        slope = torch.stack([pulled(unit.expand_as(answer), keep=True) for unit in units], 1)
    else:
        slope = point.new_zeros(len(lanes), answer.shape[1], *point.shape[1:])
    return logits, objective.loss, slope
