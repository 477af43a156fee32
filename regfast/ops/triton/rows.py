"""Device functions shared by the kernels that reduce rows of logits: targets, top logits, the one-launch mean.

Shapes: `rows`, `ok` and everything kept once a row is (ROWS,); a tile of logits is (ROWS, BLOCK) and `cols` (BLOCK,).
"""

import triton
import triton.language as tl

# Kinds of target, as the kernels know them.
INDEX = tl.constexpr(0)
DENSE = tl.constexpr(1)
STRUCTURED = tl.constexpr(2)


@triton.jit
def product(coefficient, factor):
    """coefficient * factor, where a coefficient of 0 wins over an infinite factor."""
    return tl.where(coefficient == 0.0, 0.0, coefficient * factor)


@triton.jit
def load_number(pointer, value, rows, ok, STRIDE: tl.constexpr):
    """A run-time number: `value` itself, a device scalar (STRIDE 0) or one entry a row (STRIDE 1)."""
    if pointer is None:
        return tl.zeros_like(rows).to(tl.float32) + value
    else:
        return tl.load(pointer + rows * STRIDE, mask=ok, other=0.0).to(tl.float32)


@triton.jit
def load_label(pointer, rows, ok, K: tl.constexpr):
    """Labels and whether each is one of 0..K-1; one that is not must never become an offset."""
    label = tl.load(pointer + rows, mask=ok, other=0)
    return label, (label >= 0) & (label < K)


@triton.jit
def weigh(coefficient, class_weight, label, ok):
    """coefficient * class_weight[label]."""
    if class_weight is None:
        return coefficient
    else:
        return coefficient * tl.load(class_weight + label, mask=ok, other=0.0).to(tl.float32)


@triton.jit
def mixed_target(
    first, second, lam, smoothing, class_weight, rows, ok, lam_value, smoothing_value,
    K: tl.constexpr, LAM_STRIDE: tl.constexpr,
):  # fmt: skip
    """A target q = a·e_first + b·e_second + u·w: labels, a and b (class weights included), u, true class, validity.

    Without `second` (index targets) b = 0 and the second label is the first.
    """
    y1, valid = load_label(first, rows, ok, K)
    s = load_number(smoothing, smoothing_value, rows, ok, 0)
    a = 1.0 - s
    b = tl.zeros_like(a)
    y2 = y1
    true = y1
    if second is not None:
        a = weigh(a, class_weight, y1, ok & valid)
        b = 1.0 - s
        y2, valid2 = load_label(second, rows, ok, K)
        mix = load_number(lam, lam_value, rows, ok, LAM_STRIDE)
        a = a * mix
        b = weigh(b * (1.0 - mix), class_weight, y2, ok & valid2)
        true = tl.where(mix < 0.5, y2, y1)
        valid = valid & valid2
    else:
        a = weigh(a, class_weight, y1, ok & valid)
    return y1, y2, a, b, s / K, true, valid


@triton.jit
def mixed_tile(cols, y1, y2, a, b, u, class_weight, K: tl.constexpr, TWO: tl.constexpr, SMOOTH: tl.constexpr):
    """The (ROWS, BLOCK) tile of q for `cols`."""
    q = tl.where(cols[None, :] == y1[:, None], a[:, None], 0.0)
    if TWO:
        q += tl.where(cols[None, :] == y2[:, None], b[:, None], 0.0)
    if SMOOTH:
        if class_weight is None:
            q += u[:, None]
        else:
            q += u[:, None] * tl.load(class_weight + cols, mask=cols < K, other=0.0).to(tl.float32)[None, :]
    return q


@triton.jit
def dense_tile(dense, rows, cols, mask, class_weight, s, STRIDE: tl.constexpr, K: tl.constexpr):
    """The (ROWS, BLOCK) tile of q for `cols`, 0 outside `mask`, and the same before smoothing and class weights."""
    t = tl.load(dense + rows[:, None] * STRIDE + cols[None, :], mask=mask, other=0.0).to(tl.float32)
    q = tl.where(mask, (1.0 - s)[:, None] * t + (s / K)[:, None], 0.0)
    if class_weight is not None:
        q *= tl.load(class_weight + cols, mask=cols < K, other=0.0).to(tl.float32)[None, :]
    return q, t


@triton.jit
def first_at(hit, cols, K: tl.constexpr):
    """Lowest column of each row where `hit`, K where there is none."""
    return tl.min(tl.where(hit, cols[None, :], K), 1)


@triton.jit
def add_to_total(partial, counter, total, count, denominator, value, counted, scale):
    """Add up `value` over all programs, in this very launch and always in the same order.

    total = scale · Σ value, or Σ value / denominator; where `count` is asked for, it is Σ counted and the denominator.
    Every program leaves its share in `partial`; the one that arrives last adds them up and puts the counter back to 0.
    """
    programs = tl.num_programs(0)
    tl.store(partial + tl.program_id(0), value)
    if count is not None:
        tl.store(partial + programs + tl.program_id(0), counted)
    tl.debug_barrier()
    arrived = tl.atomic_add(counter, 1, sem="acq_rel", scope="gpu")
    if arrived == programs - 1:
        sums = _sum_all(partial, programs)
        if count is not None:
            counts = _sum_all(partial + programs, programs)
            tl.store(total, sums / counts)
            tl.store(count, counts)
        elif denominator is not None:
            tl.store(total, sums / tl.load(denominator))
        else:
            tl.store(total, sums * scale)
        tl.store(counter, 0)


@triton.jit
def _sum_all(values, size):
    lanes = tl.arange(0, 1024)
    sums = tl.zeros([1024], tl.float32)
    for start in range(0, size, 1024):
        sums += tl.load(values + start + lanes, mask=start + lanes < size, other=0.0, cache_modifier=".cg")
    return tl.sum(sums, 0)
