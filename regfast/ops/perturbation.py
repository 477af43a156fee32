"""Moves of attacks, one pass each: a step projected to ball and box, random starts, projection to the l1 ball and box.

Points have any shape (B, …); norms run over everything but the first dimension. Per-sample values are numbers or (B,).
Not differentiable. `TINY` guards the divisions by norms, with the value of the reference AutoAttack.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from regfast.ops.dispatch import find
from regfast.ops.philox import counters

__all__ = ["TINY", "Norm", "Start", "l1_box_projection", "perturb_step", "random_start"]

Norm = Literal["linf", "l2", "l1"]
Start = Literal["sphere", "ball"]
TINY = 1e-12


def perturb_step(
    point: Tensor,
    gradient: Tensor,
    clean: Tensor,
    eps: float | Tensor,
    step: float | Tensor,
    norm: Norm,
    previous: Tensor | None = None,
    momentum: float | Tensor = 1.0,
    *,
    sparsity: float | Tensor = 1.0,
    lower: float = 0.0,
    upper: float = 1.0,
) -> Tensor:
    """One step up the gradient: PGD's, or APGD's momentum form (Croce and Hein 2020, algorithm 1).

    With `P` the projection to the ball around `clean`, then to the box (l1: to both at once):
    `z = P(point + step · direction)`, and with `previous` given
    `P(point + momentum (z - point) + (1 - momentum)(point - previous))`.

    - linf: direction `sign(g)`; P clips to [clean - eps, clean + eps], then to the box.
    - l2: direction `g / (‖g‖ + TINY)`; P is `clean + δ · min(eps, ‖δ‖) / (‖δ‖ + TINY)`, then the box.
    - l1: direction `sign(g)` on the entries whose `|g|` is at least the one of rank
      `min(floor((1 - sparsity) n), n - 1)` in ascending order (ranks from 0, the product in float32), zero elsewhere,
      divided by the number of its nonzeros + 1e-10; P is `l1_box_projection`.

    Args:
        point: (B, …) float32 (reference: also float64): where the gradient was taken.
        gradient: same shape, any float dtype.
        clean: same shape and dtype: the ball's center, inside the box.
        eps: radius ≥ 0.
        step: step size.
        norm: "linf", "l2", "l1".
        previous: the iterate before `point`, same shape.
        momentum: share of the new step, in [0, 1]; 1 ignores `previous` (which must still be finite).
        sparsity: share of the entries that move, in (0, 1]; l1 only.
        lower: the box's lower edge.
        upper: the box's upper edge.

    Returns:
        A new tensor like `point`.

    Raises:
        ValueError: unknown norm, or shapes that don't fit.
    """
    _check_norm(norm)
    _check_shapes(point, gradient=gradient, clean=clean, previous=previous)
    _check_numbers(point, eps=eps, step=step, momentum=momentum, sparsity=sparsity)
    run = find("perturbation", "perturb_step", point)
    return run(point, gradient, clean, eps, step, norm, previous, momentum, sparsity=sparsity, lower=lower, upper=upper)


def random_start(
    clean: Tensor,
    eps: float | Tensor,
    norm: Norm,
    seed: int,
    sample: Tensor,
    stage: int = 0,
    restart: int | Tensor = 0,
    step: int | Tensor = 0,
    *,
    start: Start = "sphere",
    lower: float = 0.0,
    upper: float = 1.0,
) -> Tensor:
    """A random point of the ball around `clean`, clipped to the box; draws of `philox`, element e of a row is draw e.

    - linf: `t = 2 u - 1` with u uniform; "sphere" (APGD): `eps · t / (max|t| + TINY)`; "ball" (PGD): `eps · t`.
    - l2: t normal; "sphere": `eps · t / (‖t‖ + TINY)`; "ball": that times u₀, the first uniform draw of the same
      counter.
    - l1: t normal; the `l1_box_projection` of it (both starts).

    Args:
        clean: (B, …) float32, inside the box.
        eps: radius ≥ 0, a number or (B,).
        norm: "linf", "l2", "l1".
        seed, sample, stage, restart, step: see `regfast.ops.philox.uniform`.
        start: "sphere" or "ball".
        lower: the box's lower edge.
        upper: the box's upper edge.

    Raises:
        ValueError, TypeError: unknown norm or start, shapes that don't fit, numbers out of range.
    """
    _check_norm(norm)
    if start not in ("sphere", "ball"):
        raise ValueError(f"start must be 'sphere' or 'ball', got {start!r}")
    restart, step = counters(seed, sample, stage, restart, step)
    if sample.shape != clean.shape[:1]:
        raise ValueError(f"sample must be ({len(clean)},), one id for each row of clean, got {tuple(sample.shape)}")
    _check_numbers(clean, eps=eps)
    run = find("perturbation", "random_start", clean)
    return run(clean, eps, norm, seed, sample, stage, restart, step, start=start, lower=lower, upper=upper)


def l1_box_projection(
    clean: Tensor, delta: Tensor, eps: float | Tensor, *, lower: float = 0.0, upper: float = 1.0
) -> Tensor:
    """The nearest perturbation to `delta` with l1 norm ≤ eps and `clean` + it in the box (Euclidean, exact).

    Entry i of the answer is `sign(δ_i) · clip(|δ_i| - μ, 0, room_i)` with the least μ ≥ 0 that satisfies the norm
    (Croce and Hein 2021, arXiv 2103.01208, proposition 2.1).

    Args:
        clean: (B, …) float32, inside the box.
        delta: same shape.
        eps: radius ≥ 0, a number or (B,).
        lower: the box's lower edge.
        upper: the box's upper edge.

    Raises:
        ValueError: shapes that don't fit.
    """
    _check_shapes(clean, delta=delta)
    _check_numbers(clean, eps=eps)
    run = find("perturbation", "l1_box_projection", clean)
    return run(clean, delta, eps, lower=lower, upper=upper)


def _check_norm(norm: str) -> None:
    if norm not in ("linf", "l2", "l1"):
        raise ValueError(f"norm must be one of linf, l2, l1, got {norm!r}")


def _check_shapes(like: Tensor, **tensors: Tensor | None) -> None:
    """Kernels trust what they are given: a tensor that is too small would be read beyond its end."""
    shape = like.shape
    if not shape:
        raise ValueError("points must be (B, ...), got a scalar")
    for name, tensor in tensors.items():
        if tensor is not None and tensor.shape != shape:
            raise ValueError(f"{name} must have the shape {tuple(shape)}, got {tuple(tensor.shape)}")


def _check_numbers(like: Tensor, **values: float | Tensor) -> None:
    for name, value in values.items():
        if isinstance(value, Tensor) and value.dim() and value.shape != like.shape[:1]:
            raise ValueError(f"{name} must be a number or ({len(like)},), one for each row, got {tuple(value.shape)}")
