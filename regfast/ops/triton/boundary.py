"""FAB's move on a GPU: one launch, a lane a program (see `regfast.ops.boundary`)."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from regfast.ops.reference import boundary as reference
from regfast.ops.triton.launch import launch

__all__ = ["boundary_step"]

_BLOCK = 2048


def boundary_step(
    point: Tensor, image: Tensor, rise: Tensor, slope: Tensor, across: Tensor, eta: float | Tensor, alpha_max: float,
    beta: float, norm: str,
) -> Tensor:  # fmt: skip
    """See `regfast.ops.boundary`. In l1 the entries have to be sorted, which PyTorch does."""
    if norm == "l1":
        return reference.boundary_step(point, image, rise, slope, across, eta, alpha_max, beta, norm)
    point, image, slope = point.contiguous(), image.contiguous(), slope.contiguous()
    out, size = torch.empty_like(point), point[0].numel() if len(point) else 0
    overshoots = eta.contiguous() if isinstance(eta, Tensor) else None
    block = min(triton.next_power_of_2(max(size, 1)), _BLOCK)
    launch(
        boundary_kernel, len(point) if size else 0, point.device,
        point, image, rise.contiguous(), slope, across.contiguous(), overshoots, out, size,
        1.0 if isinstance(eta, Tensor) else eta, alpha_max, beta,
        LINF=norm == "linf", ROUNDS=reference.ROUNDS, BLOCK=block, num_warps=8 if block > 1024 else 4,
    )  # fmt: skip
    return out


@triton.jit
def _sign(x):
    return tl.where(x > 0, 1.0, tl.where(x < 0, -1.0, 0.0))


@triton.jit
def _room_and_way(x, g, way):
    """How far an entry may go, and which way: by the sign of what is missing."""
    w = g * way
    return tl.where(w > 0, 1 - x, x), _sign(w)


@triton.jit
def _gain_and_stop(x, g, way, scale, LINF: tl.constexpr):
    """What a unit of λ raises the product by, and the λ at which the entry is at the box."""
    room, sign = _room_and_way(x, g, way)
    weight = tl.abs(g) * scale
    if LINF:
        gain, stop = weight, room
    else:
        gain, stop = weight * weight, room / tl.maximum(weight, 1e-30)
    return tl.where(sign == 0, 0.0, gain), stop


@triton.jit
def _move(x, g, way, scale, level, LINF: tl.constexpr):
    room, sign = _room_and_way(x, g, way)
    if LINF:
        far = level
    else:
        far = level * (tl.abs(g) * scale)
    return sign * tl.minimum(room, far)


@triton.jit
def _start(point, image, at, ok, over, beta):
    x, clean = tl.load(point + at, mask=ok, other=0.0), tl.load(image + at, mask=ok, other=0.0)
    return x, tl.where(over, clean + beta * (x - clean), x), clean


@triton.jit
def boundary_kernel(
    point, image, rise, slope, across, overshoots, out, size, eta, alpha_max, beta,
    LINF: tl.constexpr, ROUNDS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Solves for both planes side by side: the lane's three rows, read once a Newton step, stay in the cache."""
    lane = tl.program_id(0)
    row = lane.to(tl.int64) * size
    over = tl.load(across + lane).to(tl.int1)
    near_gap, far_gap, largest = (
        tl.zeros([BLOCK], tl.float32),
        tl.zeros([BLOCK], tl.float32),
        tl.zeros([BLOCK], tl.float32),
    )
    for start in range(0, size, BLOCK):
        cols = start + tl.arange(0, BLOCK)
        ok = cols < size
        x, begin, clean = _start(point, image, row + cols, ok, over, beta)
        g = tl.load(slope + row + cols, mask=ok, other=0.0)
        near_gap += g * (begin - x)
        far_gap += g * (clean - x)
        largest = tl.maximum(largest, tl.abs(g))
    height = -tl.load(rise + lane)
    near_missing, far_missing = height - tl.sum(near_gap, 0), height - tl.sum(far_gap, 0)
    near_way, far_way = _sign(near_missing), _sign(far_missing)
    scale = 1.0  # in l2 squares of the weights of confident models would be 0
    if not LINF:
        scale = 1.0 / tl.maximum(tl.max(largest, 0), 1e-30)
    near_missing, far_missing = tl.abs(near_missing) * scale, tl.abs(far_missing) * scale

    # Σ gain · min(λ, stop) = missing, by Newton's method from λ = missing / Σ gain.
    near_level, far_level = 0.0, 0.0
    near_all, far_all = 0.0, 0.0
    rounds = 0
    while rounds <= ROUNDS:
        near_sum, near_free = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
        far_sum, far_free = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
        for start in range(0, size, BLOCK):
            cols = start + tl.arange(0, BLOCK)
            ok = cols < size
            _, begin, clean = _start(point, image, row + cols, ok, over, beta)
            g = tl.load(slope + row + cols, mask=ok, other=0.0)
            gain, stop = _gain_and_stop(begin, g, near_way, scale, LINF)
            there, limit = _gain_and_stop(clean, g, far_way, scale, LINF)
            if rounds == 0:  # λ is not known yet: what all gains, and all room, come to
                near_free += gain
                far_free += there
                near_sum += gain * stop
                far_sum += there * limit
            else:
                near_free += tl.where(stop > near_level, gain, 0.0)
                far_free += tl.where(limit > far_level, there, 0.0)
                near_sum += gain * tl.minimum(stop, near_level)
                far_sum += there * tl.minimum(limit, far_level)
        near, far = tl.sum(near_sum, 0), tl.sum(far_sum, 0)
        if rounds == 0:
            near_all, far_all = near, far
            near, far = near * 0, far * 0
        near_ahead = (near_missing - near) / tl.sum(near_free, 0)
        far_ahead = (far_missing - far) / tl.sum(far_free, 0)
        near_ahead = tl.where(near_ahead > 1e-6 * near_level, near_ahead, 0.0)
        far_ahead = tl.where(far_ahead > 1e-6 * far_level, far_ahead, 0.0)
        near_level += near_ahead
        far_level += far_ahead
        arrived = (near_ahead == 0) & (far_ahead == 0)
        rounds = tl.where(arrived, ROUNDS + 1, rounds + 1)
    near_level = tl.where(near_all > near_missing, near_level, 1e30)
    far_level = tl.where(far_all > far_missing, far_level, 1e30)

    near_size, far_size = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    for start in range(0, size, BLOCK):
        cols = start + tl.arange(0, BLOCK)
        ok = cols < size
        _, begin, clean = _start(point, image, row + cols, ok, over, beta)
        g = tl.load(slope + row + cols, mask=ok, other=0.0)
        here = tl.abs(_move(begin, g, near_way, scale, near_level, LINF))
        there = tl.abs(_move(clean, g, far_way, scale, far_level, LINF))
        if LINF:
            near_size, far_size = tl.maximum(near_size, here), tl.maximum(far_size, there)
        else:
            near_size, far_size = near_size + here * here, far_size + there * there
    if LINF:
        near_length, far_length = tl.max(near_size, 0), tl.max(far_size, 0)
    else:
        near_length, far_length = tl.sqrt(tl.sum(near_size, 0)), tl.sqrt(tl.sum(far_size, 0))
    near_length, far_length = tl.maximum(near_length, 1e-8), tl.maximum(far_length, 1e-8)
    alpha = tl.minimum(near_length / (near_length + far_length), alpha_max)
    over_it = eta
    if overshoots is not None:
        over_it = tl.load(overshoots + lane)
    for start in range(0, size, BLOCK):
        cols = start + tl.arange(0, BLOCK)
        ok = cols < size
        _, begin, clean = _start(point, image, row + cols, ok, over, beta)
        g = tl.load(slope + row + cols, mask=ok, other=0.0)
        onward = begin + over_it * _move(begin, g, near_way, scale, near_level, LINF)
        home = clean + over_it * _move(clean, g, far_way, scale, far_level, LINF)
        drawn = (1 - alpha) * onward + alpha * home
        tl.store(out + row + cols, tl.where(drawn > 1, 1.0, tl.where(drawn < 0, 0.0, drawn)), mask=ok)  # NaN stays
