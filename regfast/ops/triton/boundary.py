"""FAB's move on a GPU: one launch, a lane a program (see `regfast.ops.boundary`)."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from regfast.ops.reference.boundary import ROUNDS
from regfast.ops.triton.launch import launch

__all__ = ["boundary_step"]

_BLOCK = 2048


def boundary_step(
    point: Tensor, image: Tensor, rise: Tensor, slope: Tensor, across: Tensor, eta: float | Tensor, alpha_max: float,
    beta: float, norm: str,
) -> Tensor:  # fmt: skip
    """See `regfast.ops.boundary`."""
    point, image, slope = point.contiguous(), image.contiguous(), slope.contiguous()
    out, size = torch.empty_like(point), point[0].numel() if len(point) else 0
    overshoots = eta.contiguous() if isinstance(eta, Tensor) else None
    block = min(triton.next_power_of_2(max(size, 1)), _BLOCK)
    launch(
        boundary_kernel, len(point) if size else 0, point.device,
        point, image, rise.contiguous(), slope, across.contiguous(), overshoots, out, size,
        1.0 if isinstance(eta, Tensor) else eta, alpha_max, beta,
        NORM={"linf": 0, "l2": 1, "l1": 2}[norm], ROUNDS=ROUNDS, BLOCK=block, num_warps=8 if block > 1024 else 4,
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
def _weight(x, g, way, scale, NORM: tl.constexpr):
    """|w|, times the plane's `scale`; in l2 and l1, whose scale asks for it, 0 where there is no room."""
    weight = tl.abs(g) * scale
    if NORM != 0:
        weight = tl.where(_room_and_way(x, g, way)[0] > 0, weight, 0.0)
    return weight


@triton.jit
def _gain_and_stop(x, g, way, scale, NORM: tl.constexpr):
    """What a unit of λ raises the product by, and the λ at which the entry is at the box."""
    room, sign = _room_and_way(x, g, way)
    weight = _weight(x, g, way, scale, NORM)
    if NORM == 0:
        gain, stop = weight, room
    else:
        gain, stop = weight * weight, room / tl.maximum(weight, 1e-30)
    return tl.where(sign == 0, 0.0, gain), stop


@triton.jit
def _move(x, g, cols, way, scale, level, last, part, NORM: tl.constexpr):
    """Of an entry; `last` and `part` are l1's: which entry of weight `level` goes a part of its way, and that part."""
    room, sign = _room_and_way(x, g, way)
    weight = _weight(x, g, way, scale, NORM)
    if NORM == 0:
        far = level
    elif NORM == 1:
        far = level * weight
    else:
        tied = weight == level
        far = tl.where((weight > level) | (tied & (cols < last)), room, tl.where(tied & (cols == last), part, 0.0))
    return sign * tl.minimum(room, far)


@triton.jit
def _start(point, image, slope, at, ok, over, beta):
    """Where the model was asked, where the move begins, the image, and the slope."""
    x, clean = tl.load(point + at, mask=ok, other=0.0), tl.load(image + at, mask=ok, other=0.0)
    return x, tl.where(over, clean + beta * (x - clean), x), clean, tl.load(slope + at, mask=ok, other=0.0)


@triton.jit
def _levels(
    point, image, slope, row, size, over, beta, near_way, far_way, near_missing, far_missing, near_scale,
    far_scale, NORM: tl.constexpr, ROUNDS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """λ of both planes, linf and l2: Σ gain · min(λ, stop) = missing, by Newton's method from missing / Σ gain."""
    near_level, far_level, near_all, far_all = 0.0, 0.0, 0.0, 0.0
    rounds = 0
    while rounds <= ROUNDS:
        near_sum, near_free = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
        far_sum, far_free = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
        for start in range(0, size, BLOCK):
            cols = start + tl.arange(0, BLOCK)
            _, begin, clean, g = _start(point, image, slope, row + cols, cols < size, over, beta)
            gain, stop = _gain_and_stop(begin, g, near_way, near_scale, NORM)
            there, limit = _gain_and_stop(clean, g, far_way, far_scale, NORM)
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
    return tl.where(near_all > near_missing, near_level, 1e30), tl.where(far_all > far_missing, far_level, 1e30)


@triton.jit
def _rises(
    point, image, slope, row, size, over, beta, near_way, far_way, near_scale, far_scale, near_level, far_level,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """What the entries of larger weights than `level` raise the product by, going all the way."""
    near, far = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    for start in range(0, size, BLOCK):
        cols = start + tl.arange(0, BLOCK)
        _, begin, clean, g = _start(point, image, slope, row + cols, cols < size, over, beta)
        weight = _weight(begin, g, near_way, near_scale, 2)
        near += tl.where(weight > near_level, weight * _room_and_way(begin, g, near_way)[0], 0.0)
        weight = _weight(clean, g, far_way, far_scale, 2)
        far += tl.where(weight > far_level, weight * _room_and_way(clean, g, far_way)[0], 0.0)
    return tl.sum(near, 0), tl.sum(far, 0)


@triton.jit
def _crossing(rises, cols, carry, rest, last, left):
    """Of entries with these rises, in order: the first at which `rest` runs out, and what is left for it."""
    before = carry + tl.cumsum(rises, 0) - rises
    here = tl.min(tl.where((rises > 0) & (before + rises > rest), cols, 2147483647), 0)
    ahead = tl.sum(tl.where(cols == here, tl.maximum(rest - before, 0.0), 0.0), 0)
    return tl.minimum(here, last), tl.where(last == 2147483647, ahead, left), carry + tl.sum(rises, 0)


@triton.jit
def _heaviest(
    point, image, slope, row, size, over, beta, near_way, far_way, near_missing, far_missing, near_scale,
    far_scale, BLOCK: tl.constexpr,
):  # fmt: skip
    """l1's: the least weight that moves, which entry of that weight goes a part of its way, and how far; twice."""
    near_all, far_all = _rises(
        point, image, slope, row, size, over, beta, near_way, far_way, near_scale, far_scale, 0.0, 0.0, BLOCK
    )
    near_low, far_low = tl.zeros((), tl.int32), tl.zeros((), tl.int32)
    # Halving the numbers between 0 and the largest, which is below 8: floats of one sign order as their bits do.
    near_high, far_high = (
        tl.where(near_all > near_missing, 0x41000000, 0),
        tl.where(far_all > far_missing, 0x41000000, 0),
    )
    while (near_high - near_low > 1) | (far_high - far_low > 1):
        near_middle = near_low + (near_high - near_low) // 2
        far_middle = far_low + (far_high - far_low) // 2
        near, far = _rises(
            point, image, slope, row, size, over, beta, near_way, far_way, near_scale, far_scale,
            near_middle.to(tl.float32, bitcast=True), far_middle.to(tl.float32, bitcast=True), BLOCK,
        )  # fmt: skip
        near_low, near_high = (
            tl.where(near > near_missing, near_middle, near_low),
            tl.where(near > near_missing, near_high, near_middle),
        )
        far_low, far_high = (
            tl.where(far > far_missing, far_middle, far_low),
            tl.where(far > far_missing, far_high, far_middle),
        )
    near_level, far_level = near_high.to(tl.float32, bitcast=True), far_high.to(tl.float32, bitcast=True)
    near, far = _rises(
        point, image, slope, row, size, over, beta, near_way, far_way, near_scale, far_scale, near_level,
        far_level, BLOCK,
    )  # fmt: skip
    near_last, far_last = tl.full((), 2147483647, tl.int32), tl.full((), 2147483647, tl.int32)
    near_part, far_part, near_carry, far_carry = 0.0, 0.0, 0.0, 0.0
    for start in range(0, size, BLOCK):
        cols = start + tl.arange(0, BLOCK)
        _, begin, clean, g = _start(point, image, slope, row + cols, cols < size, over, beta)
        weight = _weight(begin, g, near_way, near_scale, 2)
        rises = tl.where(weight == near_level, weight * _room_and_way(begin, g, near_way)[0], 0.0)
        near_last, near_part, near_carry = _crossing(rises, cols, near_carry, near_missing - near, near_last, near_part)
        weight = _weight(clean, g, far_way, far_scale, 2)
        rises = tl.where(weight == far_level, weight * _room_and_way(clean, g, far_way)[0], 0.0)
        far_last, far_part, far_carry = _crossing(rises, cols, far_carry, far_missing - far, far_last, far_part)
    return near_level, near_last, near_part / near_level, far_level, far_last, far_part / far_level


@triton.jit
def boundary_kernel(
    point, image, rise, slope, across, overshoots, out, size, eta, alpha_max, beta,
    NORM: tl.constexpr, ROUNDS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Solves for both planes side by side: the lane's three rows, read once a round, stay in the cache.

    NORM: 0 linf, 1 l2, 2 l1.
    """
    lane = tl.program_id(0)
    row = lane.to(tl.int64) * size
    over = tl.load(across + lane).to(tl.int1)
    near_gap, far_gap = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    for start in range(0, size, BLOCK):
        cols = start + tl.arange(0, BLOCK)
        x, begin, clean, g = _start(point, image, slope, row + cols, cols < size, over, beta)
        near_gap += g * (begin - x)
        far_gap += g * (clean - x)
    height = -tl.load(rise + lane)
    near_missing, far_missing = height - tl.sum(near_gap, 0), height - tl.sum(far_gap, 0)
    near_way, far_way = _sign(near_missing), _sign(far_missing)
    near_scale, far_scale = 1.0, 1.0
    if NORM != 0:  # squares of the weights of confident models would be 0
        near_most, far_most = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
        for start in range(0, size, BLOCK):
            cols = start + tl.arange(0, BLOCK)
            _, begin, clean, g = _start(point, image, slope, row + cols, cols < size, over, beta)
            near_most = tl.maximum(near_most, _weight(begin, g, near_way, 1.0, NORM))
            far_most = tl.maximum(far_most, _weight(clean, g, far_way, 1.0, NORM))
        # Above 2¹²⁶ a fast division gives 0.
        near_scale = 1.0 / tl.minimum(tl.maximum(tl.max(near_most, 0), 1.1754943508222875e-38), 8e37)
        far_scale = 1.0 / tl.minimum(tl.maximum(tl.max(far_most, 0), 1.1754943508222875e-38), 8e37)
    near_missing, far_missing = tl.abs(near_missing) * near_scale, tl.abs(far_missing) * far_scale

    near_last, far_last, near_part, far_part = 0, 0, 0.0, 0.0
    if NORM == 2:
        near_level, near_last, near_part, far_level, far_last, far_part = _heaviest(
            point, image, slope, row, size, over, beta, near_way, far_way, near_missing, far_missing, near_scale,
            far_scale, BLOCK,
        )  # fmt: skip
    else:
        near_level, far_level = _levels(
            point, image, slope, row, size, over, beta, near_way, far_way, near_missing, far_missing, near_scale,
            far_scale, NORM, ROUNDS, BLOCK,
        )  # fmt: skip

    near_size, far_size = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    for start in range(0, size, BLOCK):
        cols = start + tl.arange(0, BLOCK)
        _, begin, clean, g = _start(point, image, slope, row + cols, cols < size, over, beta)
        here = tl.abs(_move(begin, g, cols, near_way, near_scale, near_level, near_last, near_part, NORM))
        there = tl.abs(_move(clean, g, cols, far_way, far_scale, far_level, far_last, far_part, NORM))
        if NORM == 0:
            near_size, far_size = tl.maximum(near_size, here), tl.maximum(far_size, there)
        elif NORM == 1:
            near_size, far_size = near_size + here * here, far_size + there * there
        else:
            near_size, far_size = near_size + here, far_size + there
    if NORM == 0:
        near_length, far_length = tl.max(near_size, 0), tl.max(far_size, 0)
    elif NORM == 1:
        near_length, far_length = tl.sqrt(tl.sum(near_size, 0)), tl.sqrt(tl.sum(far_size, 0))
    else:
        near_length, far_length = tl.sum(near_size, 0), tl.sum(far_size, 0)
    near_length, far_length = tl.maximum(near_length, 1e-8), tl.maximum(far_length, 1e-8)
    alpha = tl.minimum(near_length / (near_length + far_length), alpha_max)
    over_it = eta
    if overshoots is not None:
        over_it = tl.load(overshoots + lane)
    for start in range(0, size, BLOCK):
        cols = start + tl.arange(0, BLOCK)
        ok = cols < size
        _, begin, clean, g = _start(point, image, slope, row + cols, ok, over, beta)
        onward = begin + over_it * _move(begin, g, cols, near_way, near_scale, near_level, near_last, near_part, NORM)
        home = clean + over_it * _move(clean, g, cols, far_way, far_scale, far_level, far_last, far_part, NORM)
        drawn = (1 - alpha) * onward + alpha * home
        tl.store(out + row + cols, tl.where(drawn > 1, 1.0, tl.where(drawn < 0, 0.0, drawn)), mask=ok)  # NaN stays
