"""Moves of attacks, on rows of `size` contiguous float32 entries.

Launched without fused multiply-add: what needs no sum (linf steps, uniform starts) has the very bits of the reference.
"""

import triton
import triton.language as tl

from .philox_kernels import normal_draws, uniform_draws
from .rows import load_number

TINY = tl.constexpr(1e-12)
LINF, L2 = tl.constexpr(0), tl.constexpr(1)


@triton.jit
def clip(x, low, high):
    """Into [low, high]; NaN stays NaN."""
    x = tl.where(x < low, low, x)
    return tl.where(x > high, high, x)


@triton.jit
def sign(x):
    """-1, 0, 1, or NaN."""
    return tl.where(x > 0, 1.0, tl.where(x < 0, -1.0, x))


@triton.jit
def _number(pointer, value, row):
    return load_number(pointer, value, row, row >= 0, 1)


@triton.jit
def _row_total(partials, phase, row, chunks, programs, value, PHASE: tl.constexpr, SINGLE: tl.constexpr):
    """The sum of `value` over the row: this program's own if it has the whole row, else of what phase `phase` left."""
    if SINGLE:
        return tl.sum(value, 0)
    else:
        lanes = tl.arange(0, 1024)
        total = tl.zeros([1024], tl.float32)
        for start in range(0, chunks, 1024):
            at = phase.to(tl.int64) * programs + row * chunks + start + lanes
            total += tl.load(partials + at, mask=start + lanes < chunks, other=0.0)
        return tl.sum(total, 0)


@triton.jit
def _inside_l2(delta, clean, length, eps, lower, upper):
    scaled = tl.div_rn(delta, tl.zeros_like(delta) + (length + TINY)) * tl.minimum(eps, length)
    return clip(clean + scaled, lower, upper)


@triton.jit(do_not_specialize=["chunks"])
def step_kernel(
    point, gradient, clean, previous, out, partials,
    eps, step, momentum, size, chunks,
    eps_value, step_value, momentum_value, lower, upper,
    NORM: tl.constexpr, PHASE: tl.constexpr, SINGLE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One chunk of one row a program. PHASE 3 writes the new point; for l2, rows of several chunks take a launch a norm
    before it: of the gradient (0), of the step's perturbation (1), of the perturbation with momentum (2)."""
    program = tl.program_id(0).to(tl.int64)
    programs = tl.num_programs(0).to(tl.int64)
    row = program // chunks
    inside = (program % chunks) * BLOCK + tl.arange(0, BLOCK)
    mask = inside < size
    at = row * size + inside
    g = tl.load(gradient + at, mask=mask, other=0.0).to(tl.float32)
    if PHASE == 0:
        tl.store(partials + program, tl.sum(g * g, 0))
    else:
        x = tl.load(point + at, mask=mask, other=0.0)
        c = tl.load(clean + at, mask=mask, other=0.0)
        radius = _number(eps, eps_value, row)
        length_of_step = _number(step, step_value, row)
        if NORM == LINF:
            low, high = c - radius, c + radius
            moved = clip(clip(x + length_of_step * sign(g), low, high), lower, upper)
            if previous is not None:
                p = tl.load(previous + at, mask=mask, other=0.0)
                share = _number(momentum, momentum_value, row)
                moved = x + share * (moved - x) + (1.0 - share) * (x - p)
                moved = clip(clip(moved, low, high), lower, upper)
            tl.store(out + at, moved, mask=mask)
        else:
            zero = tl.full([], 0, tl.int32)
            norm = tl.sqrt_rn(_row_total(partials, zero, row, chunks, programs, g * g, PHASE, SINGLE))
            delta = x + length_of_step * tl.div_rn(g, tl.zeros_like(g) + (norm + TINY)) - c
            delta = tl.where(mask, delta, 0.0)
            if PHASE == 1:
                tl.store(partials + programs + program, tl.sum(delta * delta, 0))
            else:
                total = _row_total(partials, zero + 1, row, chunks, programs, delta * delta, PHASE, SINGLE)
                moved = _inside_l2(delta, c, tl.sqrt_rn(total), radius, lower, upper)
                if previous is not None:
                    p = tl.load(previous + at, mask=mask, other=0.0)
                    share = _number(momentum, momentum_value, row)
                    delta = x + share * (moved - x) + (1.0 - share) * (x - p) - c
                    delta = tl.where(mask, delta, 0.0)
                    if PHASE == 2:
                        tl.store(partials + 2 * programs + program, tl.sum(delta * delta, 0))
                    else:
                        total = _row_total(partials, zero + 2, row, chunks, programs, delta * delta, PHASE, SINGLE)
                        moved = _inside_l2(delta, c, tl.sqrt_rn(total), radius, lower, upper)
                if PHASE == 3:
                    tl.store(out + at, moved, mask=mask)


@triton.jit
def _draws(start, sample, seed_low, seed_high, stage, restart, draw_step, NORM: tl.constexpr, BLOCK: tl.constexpr):
    if NORM == LINF:
        return 2.0 * uniform_draws(start, sample, seed_low, seed_high, stage, restart, draw_step, BLOCK) - 1.0
    else:
        return normal_draws(start, sample, seed_low, seed_high, stage, restart, draw_step, BLOCK)


@triton.jit(do_not_specialize=["seed_low", "seed_high", "stage", "chunks"])
def random_start_kernel(
    clean, out, samples, restarts, steps, eps, size, chunks, seed_low, seed_high, stage, eps_value, lower, upper,
    NORM: tl.constexpr, SPHERE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """`chunks` programs a row; one where the draws are scaled by their norm, for which it draws twice."""
    row = (tl.program_id(0) // chunks).to(tl.int64)
    first = (tl.program_id(0) % chunks) * BLOCK
    sample = tl.load(samples + row)
    restart = tl.load(restarts + row)
    draw_step = tl.load(steps + row)
    stage = stage.to(tl.int64)
    radius = _number(eps, eps_value, row)
    sums = tl.zeros([BLOCK], tl.float32)
    if SPHERE or NORM == L2:
        for start in range(0, size, BLOCK):
            t = _draws(start, sample, seed_low, seed_high, stage, restart, draw_step, NORM, BLOCK)
            t = tl.where(start + tl.arange(0, BLOCK) < size, t, 0.0)
            if NORM == LINF:
                sums = tl.maximum(sums, tl.abs(t))
            else:
                sums += t * t
    if NORM == LINF:
        norm = tl.max(sums, 0)
    else:
        norm = tl.sqrt_rn(tl.sum(sums, 0))
    shrink = tl.full([], 1.0, tl.float32)
    if NORM == L2 and not SPHERE:
        first_draws = uniform_draws(0, sample, seed_low, seed_high, stage, restart, draw_step, 16)
        shrink = tl.sum(tl.where(tl.arange(0, 16) == 0, first_draws, 0.0), 0)
    for start in range(first, size, chunks * BLOCK):
        t = _draws(start, sample, seed_low, seed_high, stage, restart, draw_step, NORM, BLOCK)
        if SPHERE or NORM == L2:
            t = tl.div_rn(t, tl.zeros_like(t) + (norm + TINY))
        if NORM == L2 and not SPHERE:
            t = t * shrink
        inside = start + tl.arange(0, BLOCK)
        mask = inside < size
        c = tl.load(clean + row * size + inside, mask=mask, other=0.0)
        tl.store(out + row * size + inside, clip(c + radius * t, lower, upper), mask=mask)


@triton.jit
def _shrunk(clean, delta, at, mask, mu, lower, upper):
    """sign(δ) clip(|δ| - μ, 0, room), and the δ loaded."""
    d = tl.load(delta + at, mask=mask, other=0.0)
    c = tl.load(clean + at, mask=mask, other=0.0)
    room = tl.where(d > 0, upper - c, c - lower)
    room = tl.where(room < 0.0, 0.0, room)
    kept = tl.abs(d) - mu
    kept = tl.where(kept < 0.0, 0.0, kept)
    return sign(d) * tl.where(mask, tl.minimum(kept, room), 0.0)


@triton.jit
def l1_projection_kernel(clean, delta, out, eps, size, eps_value, lower, upper, BLOCK: tl.constexpr):
    """One row a program: the least float μ ≥ 0 with Σ clip(|δ|-μ, 0, room) ≤ eps.

    The norm falls as μ grows, and non-negative floats order as their bits do: 31 halvings find μ to the last bit.
    """
    row = tl.program_id(0).to(tl.int64)
    radius = _number(eps, eps_value, row)
    least = tl.full([], -1, tl.int32)  # norm at the float of these bits is too large; -1 stands before 0
    enough = tl.full([], 0x7F800000, tl.int32)  # … is small enough: +inf
    for _ in range(32):
        # Once the two are neighbors, `middle` is one of them and nothing changes any more.
        middle = least + (enough - least) // 2
        middle = tl.where(middle < 0, 0, middle)
        mu = middle.to(tl.float32, bitcast=True)
        sums = tl.zeros([BLOCK], tl.float32)
        for start in range(0, size, BLOCK):
            inside = start + tl.arange(0, BLOCK)
            sums += tl.abs(_shrunk(clean, delta, row * size + inside, inside < size, mu, lower, upper))
        fits = tl.sum(sums, 0) <= radius
        enough = tl.where(fits, tl.minimum(middle, enough), enough)
        least = tl.where(fits, least, tl.maximum(middle, least))
    mu = enough.to(tl.float32, bitcast=True)
    for start in range(0, size, BLOCK):
        inside = start + tl.arange(0, BLOCK)
        mask = inside < size
        tl.store(
            out + row * size + inside, _shrunk(clean, delta, row * size + inside, mask, mu, lower, upper), mask=mask
        )


@triton.jit
def l1_direction_kernel(gradient, out, sparsity, size, sparsity_value, BLOCK: tl.constexpr):
    """One row a program: signs of the largest entries over their number; the threshold by halving over float bits."""
    row = tl.program_id(0).to(tl.int64)
    share = _number(sparsity, sparsity_value, row)
    rank = ((1.0 - share) * size).to(tl.int32)
    rank = tl.minimum(tl.maximum(rank, 0), size - 1)
    reached = tl.full([], 0, tl.int32)  # bits of a float that at least size - rank entries reach
    missed = tl.full([], 0x7F800001, tl.int32)  # … that fewer do
    for _ in range(31):
        middle = reached + (missed - reached) // 2
        count = tl.zeros([BLOCK], tl.int32)
        for start in range(0, size, BLOCK):
            inside = start + tl.arange(0, BLOCK)
            g = tl.load(gradient + row * size + inside, mask=inside < size, other=0.0).to(tl.float32)
            bits = tl.abs(g).to(tl.int32, bitcast=True)
            count += tl.where((inside < size) & (bits >= middle), 1, 0)
        enough = tl.sum(count, 0) >= size - rank
        reached = tl.where(enough, middle, reached)
        missed = tl.where(enough, missed, middle)
    threshold = reached.to(tl.float32, bitcast=True)
    nonzero = tl.zeros([BLOCK], tl.float32)
    for start in range(0, size, BLOCK):
        inside = start + tl.arange(0, BLOCK)
        g = tl.load(gradient + row * size + inside, mask=inside < size, other=0.0).to(tl.float32)
        nonzero += tl.where((g != 0.0) & (tl.abs(g) >= threshold), 1.0, 0.0)
    number = tl.sum(nonzero, 0) + 1e-10
    for start in range(0, size, BLOCK):
        inside = start + tl.arange(0, BLOCK)
        g = tl.load(gradient + row * size + inside, mask=inside < size, other=0.0).to(tl.float32)
        way = tl.div_rn(tl.where(tl.abs(g) >= threshold, sign(g), 0.0), tl.zeros_like(g) + number)
        tl.store(out + row * size + inside, way, mask=inside < size)
