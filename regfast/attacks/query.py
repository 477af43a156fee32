"""One evaluation of the model at the lanes' points: what it answers, and the gradients that the attack needs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from regfast.attacks.lanes import Answer, Lanes, Rows, per_lane
from regfast.attacks.losses import Objective, predicted
from regfast.attacks.prepare import Model
from regfast.attacks.rules import Rules


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
    logits, loss, slope = _once(attack, model, lanes, raised, gradient)
    for _ in range(attack.samples - 1):
        again = _once(attack, model, lanes, raised, gradient)
        logits, loss, slope = logits + again[0], loss + again[1], slope + again[2]
    if attack.samples > 1:
        logits, loss, slope = logits / attack.samples, loss / attack.samples, slope / attack.samples
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
    if gradient and not answer.requires_grad:
        raise ValueError(
            f"{attack.name} needs input gradients, but the model's output does not depend on its input in a "
            "differentiable way; Square asks for none"
        )
    logits = answer.detach().float()
    objective = raised(logits)
    if attack.needs == "forward":
        slope = point.new_empty(len(lanes), 0)
    elif attack.needs == "gradient":
        if gradient:
            (slope,) = torch.autograd.grad(answer, point, objective.gradient.to(answer.dtype))
        else:
            slope = torch.zeros_like(point)
    elif gradient:
        units = torch.eye(answer.shape[1], dtype=answer.dtype, device=answer.device)
        each = [unit.expand_as(answer) for unit in units]
        slope = torch.stack([torch.autograd.grad(answer, point, one, retain_graph=True)[0] for one in each], 1)
    else:
        slope = point.new_zeros(len(lanes), answer.shape[1], *point.shape[1:])
    return logits, objective.loss, slope
