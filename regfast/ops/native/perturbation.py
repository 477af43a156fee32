"""Moves of attacks by the native extension."""

from __future__ import annotations

import torch
from torch import Tensor

from regfast.ops.native.arguments import NORMS, code, split
from regfast.ops.native.philox import signed

_step = torch.ops.regfast.perturb_step.default
_start = torch.ops.regfast.random_start.default
_l1_projection = torch.ops.regfast.l1_box_projection.default


def perturb_step(
    point: Tensor,
    gradient: Tensor,
    clean: Tensor,
    eps: float | Tensor,
    step: float | Tensor,
    norm: str,
    previous: Tensor | None,
    momentum: float | Tensor,
    *,
    sparsity: float | Tensor,
    lower: float,
    upper: float,
) -> Tensor:
    """See `regfast.ops.perturbation.perturb_step`."""
    with torch.no_grad():
        return _step(
            point,
            gradient,
            clean,
            *split(eps),
            *split(step),
            code(NORMS, "norm", norm),
            previous,
            *split(momentum),
            *split(sparsity),
            lower,
            upper,
        )


def random_start(
    clean: Tensor,
    eps: float | Tensor,
    norm: str,
    seed: int,
    sample: Tensor,
    stage: int,
    restart: int | Tensor,
    step: int | Tensor,
    *,
    start: str,
    lower: float,
    upper: float,
) -> Tensor:
    """See `regfast.ops.perturbation.random_start`."""
    restart, step = (v if isinstance(v, Tensor) else torch.full_like(sample, v) for v in (restart, step))
    with torch.no_grad():
        return _start(
            clean,
            *split(eps),
            code(NORMS, "norm", norm),
            signed(seed),
            sample,
            stage,
            restart,
            step,
            start == "sphere",
            lower,
            upper,
        )


def l1_box_projection(clean: Tensor, delta: Tensor, eps: float | Tensor, *, lower: float, upper: float) -> Tensor:
    """See `regfast.ops.perturbation.l1_box_projection`."""
    with torch.no_grad():
        return _l1_projection(clean, delta, *split(eps), lower, upper)
