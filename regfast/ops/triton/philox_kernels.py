"""Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) as device functions.

Counter and key are those of `regfast.ops.philox`; every backend draws the same bits.
"""

import triton
import triton.language as tl

UNIFORM_SCALE = tl.constexpr(2.0**-24)
NORMAL_SCALE = tl.constexpr((2.0**20 - 1) ** -0.5)


@triton.jit
def philox_words(block, sample, seed_low, seed_high, stage, restart, step):
    """Four uint32 words a counter block; `block` is a tensor, the seed two int32 scalars, the others int64 scalars."""
    key0 = seed_low.to(tl.uint32)
    key1 = seed_high.to(tl.uint32) ^ ((sample >> 32) & 0xFFFFFFFF).to(tl.uint32)
    c0 = block.to(tl.uint32)
    c1 = tl.zeros_like(c0) + (sample & 0xFFFFFFFF).to(tl.uint32)
    c2 = tl.zeros_like(c0) + (((stage << 24) | restart) & 0xFFFFFFFF).to(tl.uint32)
    c3 = tl.zeros_like(c0) + (step & 0xFFFFFFFF).to(tl.uint32)
    m0 = tl.full([], 0xD2511F53, tl.uint32)
    m1 = tl.full([], 0xCD9E8D57, tl.uint32)
    for _ in tl.static_range(10):
        high0 = tl.umulhi(c0, m0)
        low0 = c0 * m0
        high1 = tl.umulhi(c2, m1)
        low1 = c2 * m1
        c0 = high1 ^ c1 ^ key0
        c1 = low1
        c2 = high0 ^ c3 ^ key1
        c3 = low0
        key0 = (key0 + tl.full([], 0x9E3779B9, tl.uint32)).to(tl.uint32)
        key1 = (key1 + tl.full([], 0xBB67AE85, tl.uint32)).to(tl.uint32)
    return c0, c1, c2, c3


@triton.jit
def _interleave(w0, w1, w2, w3, N: tl.constexpr):
    """w0[0], w1[0], w2[0], w3[0], w0[1], …, shape (4N,)."""
    return tl.reshape(tl.join(tl.join(w0, w2), tl.join(w1, w3)), [4 * N])


@triton.jit
def uniform_draws(start, sample, seed_low, seed_high, stage, restart, step, N: tl.constexpr):
    """Elements start … start + N - 1 (start and N multiples of 4), float32 in [0, 1)."""
    block = start // 4 + tl.arange(0, N // 4)
    w0, w1, w2, w3 = philox_words(block, sample, seed_low, seed_high, stage, restart, step)
    return (_interleave(w0, w1, w2, w3, N // 4) >> 8).to(tl.float32) * UNIFORM_SCALE


@triton.jit
def _fields(word):
    return ((word & 1023) + ((word >> 10) & 1023) + ((word >> 20) & 1023)).to(tl.int32)


@triton.jit
def normal_draws(start, sample, seed_low, seed_high, stage, restart, step, N: tl.constexpr):
    """Elements start … start + N - 1, float32: twelve 10-bit integers an element, scaled once."""
    element = start + tl.arange(0, N)
    w0, w1, w2, w3 = philox_words(element, sample, seed_low, seed_high, stage | 0x80, restart, step)
    return (_fields(w0) + _fields(w1) + _fields(w2) + _fields(w3) - 6138).to(tl.float32) * NORMAL_SCALE


@triton.jit(do_not_specialize=["seed_low", "seed_high", "stage", "count", "chunks"])
def draw_kernel(
    out, samples, restarts, steps, seed_low, seed_high, stage, count, chunks, NORMAL: tl.constexpr, BLOCK: tl.constexpr
):
    """Fill row s of `out` (S, count) with the draws of sample s; `chunks` programs a row."""
    row = tl.program_id(0) // chunks
    start = (tl.program_id(0) % chunks) * BLOCK
    sample = tl.load(samples + row)
    restart = tl.load(restarts + row)
    step = tl.load(steps + row)
    stage = stage.to(tl.int64)
    if NORMAL:
        drawn = normal_draws(start, sample, seed_low, seed_high, stage, restart, step, BLOCK)
    else:
        drawn = uniform_draws(start, sample, seed_low, seed_high, stage, restart, step, BLOCK)
    at = start + tl.arange(0, BLOCK)
    tl.store(out + row.to(tl.int64) * count + at, drawn, mask=at < count)
