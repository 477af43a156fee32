"""Moves of attacks on a GPU: the functions of `regfast.ops.reference.perturbation`."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from regfast.ops.triton.launch import launch
from regfast.ops.triton.perturbation_kernels import (
    L2,
    LINF,
    l1_direction_kernel,
    l1_projection_kernel,
    random_start_kernel,
    step_kernel,
)
from regfast.ops.triton.philox import halves, normal

__all__ = ["l1_box_projection", "perturb_step", "random_start"]

_NORMS = {"linf": LINF.value, "l2": L2.value}
# An l2 row of at most so many entries is one program's, which then needs no other launch for its norms.
_SINGLE_LIMIT = 8192


def perturb_step(
    point: Tensor,
    gradient: Tensor,
    clean: Tensor,
    eps: float | Tensor,
    step: float | Tensor,
    norm: str,
    previous: Tensor | None = None,
    momentum: float | Tensor = 1.0,
    *,
    sparsity: float | Tensor = 1.0,
    lower: float = 0.0,
    upper: float = 1.0,
) -> Tensor:
    """See `regfast.ops.perturbation`."""
    _check(point)
    tensors = [None if t is None else t.detach().contiguous() for t in (point, gradient, clean, previous)]
    numbers = [_number(value, point) for value in (eps, step, momentum, sparsity)]
    run = _step_op if torch.compiler.is_compiling() else _step
    return run(*tensors, *[n[0] for n in numbers], *[n[1] for n in numbers], norm, lower, upper)


def random_start(
    clean: Tensor,
    eps: float | Tensor,
    norm: str,
    seed: int,
    sample: Tensor,
    stage: int = 0,
    restart: int | Tensor = 0,
    step: int | Tensor = 0,
    *,
    start: str = "sphere",
    lower: float = 0.0,
    upper: float = 1.0,
) -> Tensor:
    """See `regfast.ops.perturbation`."""
    _check(clean)
    restart, step = (v if isinstance(v, Tensor) else torch.full_like(sample, v) for v in (restart, step))
    arguments = (halves(seed), sample.contiguous(), stage, restart.contiguous(), step.contiguous())
    run = _start_op if torch.compiler.is_compiling() else _start
    (low, high), *rest = arguments
    return run(
        clean.detach().contiguous(), *_number(eps, clean), norm, low, high, *rest, start == "sphere", lower, upper
    )


def l1_box_projection(
    clean: Tensor, delta: Tensor, eps: float | Tensor, *, lower: float = 0.0, upper: float = 1.0
) -> Tensor:
    """See `regfast.ops.perturbation`."""
    _check(clean)
    run = _projection_op if torch.compiler.is_compiling() else _projection
    return run(clean.detach().contiguous(), delta.detach().float().contiguous(), *_number(eps, clean), lower, upper)


def _check(tensor: Tensor) -> None:
    if tensor.dtype != torch.float32:
        raise TypeError(f"points must be float32 for the triton backend, got {tensor.dtype}")


def _number(value: float | Tensor, like: Tensor) -> tuple[Tensor | None, float]:
    """A per-sample value as a kernel takes it: (B,) float32 on the device, or a Python number."""
    if not isinstance(value, Tensor):
        return None, float(value)
    return value.detach().to(like.device, torch.float32).expand(len(like)).contiguous(), 0.0


def _rows(tensor: Tensor) -> tuple[int, int]:
    """Rows, and entries a row; no programs for either being 0."""
    return len(tensor), tensor[0].numel() if len(tensor) else 0


def _block(size: int) -> dict[str, int]:
    block = min(triton.next_power_of_2(max(size, 16)), 4096)
    return {"BLOCK": block, "num_warps": min(8, max(4, block // 512))}


def _step(
    point: Tensor,
    gradient: Tensor,
    clean: Tensor,
    previous: Tensor | None,
    eps: Tensor | None,
    step: Tensor | None,
    momentum: Tensor | None,
    sparsity: Tensor | None,
    eps_value: float,
    step_value: float,
    momentum_value: float,
    sparsity_value: float,
    norm: str,
    lower: float,
    upper: float,
) -> Tensor:
    if norm == "l1":
        return _l1_step(
            point, gradient, clean, previous, (eps, eps_value), step_value if step is None else _column(step, point),
            momentum_value if momentum is None else _column(momentum, point), (sparsity, sparsity_value), lower, upper,
        )  # fmt: skip
    out = torch.empty_like(point)
    rows, size = _rows(point)
    if norm == "linf":
        block, warps, single, phases = 1024, 4, True, [3]
    else:
        single = size <= _SINGLE_LIMIT
        block = triton.next_power_of_2(max(size, 16)) if single else 4096
        warps = min(16, max(4, block // 512))
        phases = [3] if single else [0, 1, 3] if previous is None else [0, 1, 2, 3]
    chunks = triton.cdiv(size, block)
    partials = None if single else point.new_empty(3 * rows * chunks)
    for phase in phases:
        launch(
            step_kernel, rows * chunks, point.device,
            point, gradient, clean, previous, out, partials, eps, step, momentum, size, chunks,
            eps_value, step_value, momentum_value, lower, upper,
            NORM=_NORMS[norm], PHASE=phase, SINGLE=single, BLOCK=block, num_warps=warps, enable_fp_fusion=False,
        )  # fmt: skip
    return out


def _l1_step(
    point: Tensor,
    gradient: Tensor,
    clean: Tensor,
    previous: Tensor | None,
    eps: tuple[Tensor | None, float],
    step: float | Tensor,
    momentum: float | Tensor,
    sparsity: tuple[Tensor | None, float],
    lower: float,
    upper: float,
) -> Tensor:
    way = torch.empty_like(point)
    rows, size = _rows(point)
    launch(
        l1_direction_kernel, rows if size else 0, point.device,
        gradient, way, sparsity[0], size, sparsity[1], **_block(size), enable_fp_fusion=False,
    )  # fmt: skip
    moved = clean + _projection(clean, point + step * way - clean, *eps, lower, upper)
    if previous is None:
        return moved
    moved = point + momentum * (moved - point) + (1 - momentum) * (point - previous)
    return clean + _projection(clean, moved - clean, *eps, lower, upper)


def _column(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.dim() - 1))


def _projection(
    clean: Tensor, delta: Tensor, eps: Tensor | None, eps_value: float, lower: float, upper: float
) -> Tensor:
    out = torch.empty_like(clean)
    rows, size = _rows(clean)
    launch(
        l1_projection_kernel, rows if size else 0, clean.device,
        clean, delta, out, eps, size, eps_value, lower, upper, **_block(size), enable_fp_fusion=False,
    )  # fmt: skip
    return out


def _start(
    clean: Tensor,
    eps: Tensor | None,
    eps_value: float,
    norm: str,
    seed_low: int,
    seed_high: int,
    sample: Tensor,
    stage: int,
    restart: Tensor,
    step: Tensor,
    sphere: bool,
    lower: float,
    upper: float,
) -> Tensor:
    rows, size = _rows(clean)
    if norm == "l1":
        seed = (seed_low & 0xFFFFFFFF) | (seed_high & 0xFFFFFFFF) << 32
        noise = normal(seed, sample, stage, restart, step, size).view(clean.shape)
        return clean + _projection(clean, noise, eps, eps_value, lower, upper)
    out = torch.empty_like(clean)
    shape = _block(size)
    chunks = triton.cdiv(size, shape["BLOCK"]) if norm == "linf" and not sphere else min(1, size)
    launch(
        random_start_kernel, rows * chunks, clean.device,
        clean, out, sample, restart, step, eps, size, chunks, seed_low, seed_high, stage, eps_value, lower, upper,
        NORM=_NORMS[norm], SPHERE=sphere, **shape, enable_fp_fusion=False,
    )  # fmt: skip
    return out


_step_op = torch.library.custom_op("regfast_triton::perturb_step", _step, mutates_args=())
_start_op = torch.library.custom_op("regfast_triton::random_start", _start, mutates_args=())
_projection_op = torch.library.custom_op("regfast_triton::l1_box_projection", _projection, mutates_args=())


@_step_op.register_fake
@_start_op.register_fake
@_projection_op.register_fake
def _(first, *rest):
    return torch.empty_like(first)
