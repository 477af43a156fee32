"""What an attack's step does beside the model and the move, on a GPU: one launch each (see `regfast.ops.lanes`)."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from regfast.ops.lanes import Ascended
from regfast.ops.triton.launch import launch

__all__ = ["ascend", "judge", "near_one", "predicted"]

_BLOCK = 1024


def predicted(logits: Tensor) -> Tensor:
    """See `regfast.ops.lanes`."""
    rows, classes = logits.shape
    logits, out = logits.contiguous(), logits.new_empty(rows, dtype=torch.int64)
    block = min(triton.next_power_of_2(classes), _BLOCK)
    launch(predicted_kernel, rows, logits.device, logits, out, classes, BLOCK=block, num_warps=4)
    return out


def near_one(gradient: Tensor) -> Tensor:
    """See `regfast.ops.lanes`."""
    gradient = gradient.contiguous()
    out, size = torch.empty_like(gradient), gradient[0].numel() if len(gradient) else 0
    launch(
        near_one_kernel, len(gradient) if size else 0, gradient.device, gradient, out, size, BLOCK=_BLOCK, num_warps=4
    )
    return out


def judge(
    point: Tensor, loss: Tensor, prediction: Tensor, wanted: Tensor, step: Tensor, hit: Tensor, may: Tensor | None,
    kept_point: Tensor, kept_loss: Tensor, kept_prediction: Tensor, *, reach: bool, steps: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """See `regfast.ops.lanes`."""
    size = point[0].numel() if len(point) else 0
    chunks = max(triton.cdiv(size, _BLOCK), 1)
    now, held, following = torch.empty_like(hit), torch.empty_like(step), torch.empty_like(step)
    launch(
        judge_kernel, len(point) * chunks, point.device,
        point.contiguous(), loss.contiguous(), prediction, wanted, step, hit, may, kept_point, kept_loss,
        kept_prediction, now, held, following, size, chunks, steps,
        REACH=reach, BLOCK=_BLOCK, num_warps=4,
    )  # fmt: skip
    return now, held, following


def ascend(
    point: Tensor, gradient: Tensor, loss: Tensor, step: Tensor, best: Tensor, best_gradient: Tensor, size: Tensor,
    best_loss: Tensor, last_loss: Tensor, rises: Tensor, checked_loss: Tensor, halved: Tensor, ends: Tensor,
    eps: float | Tensor, rho: float,
) -> Ascended:  # fmt: skip
    """See `regfast.ops.lanes`."""
    entries = point[0].numel() if len(point) else 0
    chunks = max(triton.cdiv(entries, _BLOCK), 1)
    radii = eps.contiguous() if isinstance(eps, Tensor) else None
    made = Ascended(
        best, best_gradient, torch.empty_like(point), torch.empty_like(point),
        *[torch.empty_like(size) for _ in range(7)], torch.empty_like(halved),
    )  # fmt: skip
    launch(
        ascend_kernel, len(point) * chunks, point.device,
        point.contiguous(), gradient.contiguous(), loss.contiguous(), step, best, best_gradient, size, best_loss,
        last_loss, rises, checked_loss, halved, ends, radii, *made[2:], entries, chunks,
        0.0 if isinstance(eps, Tensor) else eps, rho, BLOCK=_BLOCK, num_warps=4,
    )  # fmt: skip
    return made


@triton.jit
def predicted_kernel(logits, out, K, BLOCK: tl.constexpr):
    """A row a program."""
    row = tl.program_id(0).to(tl.int64)
    best = float("-inf")
    at = tl.zeros((), tl.int32)
    bad = tl.zeros((), tl.int32)
    for start in range(0, K, BLOCK):
        cols = start + tl.arange(0, BLOCK)
        z = tl.load(logits + row * K + cols, mask=cols < K, other=float("-inf")).to(tl.float32)
        bad = tl.maximum(bad, tl.max((z != z).to(tl.int32), 0))
        top = tl.max(z, 0)
        here = tl.min(tl.where(z == top, cols, K), 0)
        at = tl.where(top > best, here, at)
        best = tl.maximum(top, best)
    tl.store(out + row, tl.where(bad > 0, -1, at).to(tl.int64))


@triton.jit
def near_one_kernel(gradient, out, size, BLOCK: tl.constexpr):
    """A row a program, read twice."""
    row = tl.program_id(0).to(tl.int64) * size
    largest = tl.zeros([BLOCK], tl.float32)
    for start in range(0, size, BLOCK):
        cols = start + tl.arange(0, BLOCK)
        largest = tl.maximum(largest, tl.abs(tl.load(gradient + row + cols, mask=cols < size, other=0.0)))
    top = tl.max(largest, 0)
    tiny = top < 1.1754943508222875e-38  # subnormal: its exponent is not in its bits
    bits = tl.where(tiny, top * 18446744073709551616.0, top).to(tl.int32, bitcast=True)  # 2^64
    exponent = tl.where(top > 0, ((bits >> 23) & 255) - 126 - tl.where(tiny, 64, 0), 0)
    power = tl.minimum(tl.maximum(-exponent, -126), 126)
    scale = ((power + 127) << 23).to(tl.float32, bitcast=True)
    for start in range(0, size, BLOCK):
        cols = start + tl.arange(0, BLOCK)
        z = tl.load(gradient + row + cols, mask=cols < size)
        tl.store(out + row + cols, z * scale, mask=cols < size)


@triton.jit
def judge_kernel(
    point, loss, prediction, wanted, step, hit, may, kept_point, kept_loss, kept_prediction, now, held, following, size,
    chunks, steps, REACH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A chunk of a lane a program; the first of each writes what there is one of."""
    program = tl.program_id(0)
    lane, chunk = program // chunks, program % chunks
    found, goal, made = tl.load(prediction + lane), tl.load(wanted + lane), tl.load(step + lane)
    was = tl.load(hit + lane).to(tl.int1)
    if REACH:
        counts = found == goal
    else:
        counts = (found != goal) & (found >= 0)
    if may is not None:
        counts = counts & tl.load(may + lane).to(tl.int1)
    free = was == 0
    new = counts & free & (made <= steps)
    keep = new | (free & (made == steps))
    if keep:
        cols = chunk * BLOCK + tl.arange(0, BLOCK)
        at = lane.to(tl.int64) * size + cols
        tl.store(kept_point + at, tl.load(point + at, mask=cols < size), mask=cols < size)
    if chunk == 0:
        tl.store(now + lane, was | new)
        made = tl.minimum(made, steps)
        tl.store(held + lane, made)
        tl.store(following + lane, made + 1)
        if keep:
            tl.store(kept_loss + lane, tl.load(loss + lane))
            tl.store(kept_prediction + lane, found)


@triton.jit
def ascend_kernel(
    point, gradient, loss, step, best, best_gradient, size, best_loss, last_loss, rises, checked_loss, halved, ends,
    radii, new_point, new_gradient, length, momentum, new_size, new_best_loss, new_last_loss, new_rises,
    new_checked_loss, new_halved, entries, chunks, eps, rho, BLOCK: tl.constexpr,
):  # fmt: skip
    """A chunk of a lane a program. All read the lane's old scalars; the first of each writes the new ones elsewhere."""
    program = tl.program_id(0)
    lane, chunk = program // chunks, program % chunks
    made, here = tl.load(step + lane), tl.load(loss + lane)
    first = made == 0
    most, checked = tl.load(best_loss + lane), tl.load(checked_loss + lane)
    better = first | (here > most)
    most = tl.where(better, here, most)
    checked = tl.where(first, here, checked)
    before = tl.where(made == 1, 0.0, tl.load(last_loss + lane))
    rose = tl.where(first, 0.0, tl.load(rises + lane) + tl.where(here > before, 1.0, 0.0))
    interval = tl.load(ends + made)
    checkpoint = interval > 0
    was = tl.load(halved + lane).to(tl.int1) | first
    stuck = (was == 0) & (checked >= most)
    halve = checkpoint & ((rose <= rho * interval) | stuck)

    cols = chunk * BLOCK + tl.arange(0, BLOCK)
    at = lane.to(tl.int64) * entries + cols
    ok = cols < entries
    x, g = tl.load(point + at, mask=ok), tl.load(gradient + at, mask=ok)
    if better:
        tl.store(best + at, x, mask=ok)
        tl.store(best_gradient + at, g, mask=ok)
    elif halve:
        x, g = tl.load(best + at, mask=ok), tl.load(best_gradient + at, mask=ok)
    tl.store(new_point + at, x, mask=ok)
    tl.store(new_gradient + at, g, mask=ok)

    if chunk == 0:
        whole = tl.where(first, 2.0, tl.load(size + lane))
        whole = tl.where(halve, whole / 2, whole)
        radius = eps
        if radii is not None:
            radius = tl.load(radii + lane)
        tl.store(length + lane, whole * radius)
        tl.store(momentum + lane, tl.where(first, 1.0, 0.75))
        tl.store(new_size + lane, whole)
        tl.store(new_best_loss + lane, most)
        tl.store(new_last_loss + lane, here)
        tl.store(new_rises + lane, tl.where(checkpoint, 0.0, rose))
        tl.store(new_checked_loss + lane, tl.where(checkpoint, most, checked))
        tl.store(new_halved + lane, tl.where(checkpoint, halve, was))
