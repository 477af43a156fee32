"""The two kernels behind soft cross-entropy, its statistics and its gradient: rows held in registers, rows read twice.

Per row, with m = max z, S = Σ exp(z-m), Q = Σ q, dot = Σ q (z-m): loss = Q log S - dot, gradient = Q exp(z-m)/S - q.
Sums and subtractions are float32 and shifted by m before anything is added: a large common offset costs no digits.

Ignored rows are not read, unless statistics are asked for. The loss is added up last: nobody waits for another program
before the gradient is on its way.

With `scaled` the launch is a backward pass: whether `grad_output` is 1 is noted there. If it is, and `grad` holds the
gradient already (STORED), that is all.
"""

import triton
import triton.language as tl

from .row_stats import stat_coefficients, stat_tile, store_stats
from .rows import DENSE, INDEX, add_to_total, dense_tile, first_at, load_number, mixed_target, mixed_tile, product


@triton.jit
def row_factor(sample_weight, grad_output, denominator, scale, rows, ok, GRAD_OUTPUT_STRIDE: tl.constexpr):
    """What a row's gradient is multiplied by, and its sample weight."""
    sample = load_number(sample_weight, 1.0, rows, ok, 1)
    factor = load_number(grad_output, 1.0, rows, ok, GRAD_OUTPUT_STRIDE) * sample * scale
    if denominator is not None:
        factor = factor / tl.load(denominator)
    return factor, sample


@triton.jit
def note_scale(scaled, grad_output):
    """Whether `grad_output` is not 1, which `scaled` is told."""
    differs = tl.load(grad_output).to(tl.float32) != 1.0
    if tl.program_id(0) == 0:
        tl.store(scaled, differs.to(tl.int32))
    return differs


@triton.jit
def at_labels(
    logits, rows, y1, y2, a, b, largest, reachable, LOGITS_STRIDE: tl.constexpr, TWO: tl.constexpr
):  # fmt: skip
    """A row's a · (z_first - m) + b · (z_second - m), and a + b."""
    z1 = tl.load(logits + rows * LOGITS_STRIDE + y1, mask=reachable, other=0.0).to(tl.float32)
    dot = product(a, z1 - largest)
    mass = a
    if TWO:
        z2 = tl.load(logits + rows * LOGITS_STRIDE + y2, mask=reachable, other=0.0).to(tl.float32)
        dot += product(b, z2 - largest)
        mass += b
    return dot, mass


@triton.jit
def row_loss(mass, dot, largest, log_e, z_loss, Z_LOSS: tl.constexpr):
    """Log-sum-exp and loss of a row, and what its gradient has as the factor of p."""
    lse = largest + log_e
    loss = mass * log_e - dot
    if Z_LOSS:
        loss += z_loss * lse * lse
        mass += 2.0 * z_loss * lse
    return lse, loss, mass


@triton.jit
def finish_loss(
    loss, sample_weight, valid, ignored, rows, ok, losses, total, count, partial, counter, denominator, scale
):  # fmt: skip
    """Store the rows' losses, times their sample weights, and add them to the total."""
    loss = loss * load_number(sample_weight, 1.0, rows, ok, 1)
    loss = tl.where(ignored, 0.0, tl.where(valid, loss, float("nan")))
    if losses is not None:
        tl.store(losses + rows, loss, mask=ok)
    if total is not None:
        counted = tl.sum(tl.where(ok & (ignored == 0), 1.0, 0.0), 0)
        add_to_total(partial, counter, total, count, denominator, tl.sum(tl.where(ok, loss, 0.0), 0), counted, scale)


@triton.jit
def store_zeros(grad, rows, ok, K: tl.constexpr, STRIDE: tl.constexpr, BLOCK: tl.constexpr):
    """The gradient of ignored rows."""
    for start in range(0, K, BLOCK):
        cols = start + tl.arange(0, BLOCK)
        tl.store(grad + rows[:, None] * STRIDE + cols[None, :], 0.0, mask=ok[:, None] & (cols < K)[None, :])


@triton.jit(do_not_specialize=["batch", "ignore_index"])
def one_shot_kernel(
    logits, first, second, dense, lam, smoothing, class_weight, sample_weight, grad_output, denominator,
    features, centers, stat_grads,
    losses, grad, total, count, partial, counter, stats, classes, scaled,
    batch, ignore_index, lam_value, smoothing_value, z_loss, scale,
    TARGET: tl.constexpr, SMOOTH: tl.constexpr, Z_LOSS: tl.constexpr, STATS: tl.constexpr,
    LAM_STRIDE: tl.constexpr, GRAD_OUTPUT_STRIDE: tl.constexpr,
    K: tl.constexpr, D: tl.constexpr,
    LOGITS_STRIDE: tl.constexpr, DENSE_STRIDE: tl.constexpr, GRAD_STRIDE: tl.constexpr,
    FEATURES_STRIDE: tl.constexpr, CENTERS_STRIDE: tl.constexpr,
    STORED: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """ROWS whole rows a program, BLOCK >= K columns in registers: logits and dense target are read once."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    ok = rows < batch
    if scaled is not None:
        differs = note_scale(scaled, grad_output)
        if STORED and differs == 0:
            return
    if TARGET == DENSE:
        valid = ok
        ignored = rows < 0
    else:
        y1, y2, a, b, u, true, valid = mixed_target(
            first, second, lam, smoothing, class_weight, rows, ok, lam_value, smoothing_value, K, LAM_STRIDE
        )
        ignored = (y1 == ignore_index) | (y2 == ignore_index)
    live = ok
    if not STATS:
        live = ok & (ignored == 0)
    loss = tl.zeros([ROWS], tl.float32)
    if tl.max(live.to(tl.int32), 0) != 0:
        row_logits = logits + rows[:, None] * LOGITS_STRIDE
        cols = tl.arange(0, BLOCK)
        inside = (cols < K)[None, :]
        mask = live[:, None] & inside
        z = tl.load(row_logits + cols[None, :], mask=mask, other=float("-inf")).to(tl.float32)
        largest = tl.where(live, tl.max(z, 1), 0.0)
        shifted = z - largest[:, None]
        e = tl.exp(shifted)
        total_e = tl.where(live, tl.sum(e, 1), 1.0)
        log_e = tl.log(total_e)

        if TARGET == DENSE:
            s = load_number(smoothing, smoothing_value, rows, ok, 0)
            q, t = dense_tile(dense, rows, cols, mask, class_weight, s, DENSE_STRIDE, K)
            mass = tl.sum(q, 1)
            dot = tl.sum(product(q, shifted), 1)
        else:
            reachable = live & valid
            dot, mass = at_labels(
                logits, rows, y1, y2, a, b, largest, reachable, LOGITS_STRIDE, second is not None
            )  # fmt: skip
            if SMOOTH:
                if class_weight is None:
                    dot += product(u, tl.sum(tl.where(inside, shifted, 0.0), 1))
                else:
                    w = tl.load(class_weight + cols, mask=cols < K, other=0.0).to(tl.float32)[None, :]
                    dot += product(u, tl.sum(product(w, shifted), 1))
                    mass += u * tl.sum(w, 1)
            if class_weight is None:
                mass = tl.zeros_like(a) + 1.0
            q = mixed_tile(cols, y1, y2, a, b, u, class_weight, K, second is not None, SMOOTH)

        lse, loss, mass = row_loss(mass, dot, largest, log_e, z_loss, Z_LOSS)  # mass is what p is multiplied by
        factor, sample = row_factor(sample_weight, grad_output, denominator, scale, rows, ok, GRAD_OUTPUT_STRIDE)
        if STATS:
            predicted = first_at(mask & (shifted == 0.0), cols, K)
            if TARGET == DENSE:
                true = first_at(mask & (t == tl.max(tl.where(mask, t, float("-inf")), 1)[:, None]), cols, K)
            at_true = cols[None, :] == true[:, None]
            rest = tl.max(tl.where(at_true, float("-inf"), shifted), 1)
            margin = tl.sum(tl.where(at_true, shifted, 0.0), 1) - rest
            entropy = log_e - tl.sum(product(e, shifted), 1) / total_e
        if stats is not None:
            store_stats(
                stats, classes, rows, ok, batch, valid, ignored,
                lse, 1.0 / total_e, predicted, entropy, margin, true, features, centers,
                K, D, FEATURES_STRIDE, CENTERS_STRIDE, ROWS, BLOCK_D,
            )  # fmt: skip
        if grad is not None:
            if stat_grads is not None:
                rival = first_at(mask & (shifted == rest[:, None]) & (cols[None, :] != true[:, None]), cols, K)
                factor, along, across, at_predicted, at_rival, asked = stat_coefficients(
                    stat_grads, factor, sample, log_e, 1.0 / total_e, entropy, margin,
                    valid & (true < K) & (ignored == 0), rows, ok, batch,
                )  # fmt: skip
            g = (e * (mass / total_e)[:, None] - q) * factor[:, None]
            g = tl.where(ignored[:, None], 0.0, tl.where(valid[:, None], g, float("nan")))
            if stat_grads is not None:
                g += stat_tile(
                    e / total_e[:, None], shifted, cols, along, across, at_predicted, at_rival, asked,
                    predicted, true, rival,
                )  # fmt: skip
            tl.debug_barrier()  # grad may be logits itself: no row is written while a thread still gathers z1 from it
            if not STORED:
                mask = ok[:, None] & inside
            tl.store(grad + rows[:, None] * GRAD_STRIDE + cols[None, :], g.to(grad.dtype.element_ty), mask=mask)
    elif grad is not None and not STORED:
        store_zeros(grad, rows, ok, K, GRAD_STRIDE, BLOCK)
    finish_loss(
        loss, sample_weight, valid, ignored, rows, ok,
        losses, total, count, partial, counter, denominator, scale,
    )  # fmt: skip


@triton.jit(do_not_specialize=["batch", "ignore_index"])
def two_pass_kernel(
    logits, first, second, dense, lam, smoothing, class_weight, sample_weight, grad_output, denominator,
    features, centers, stat_grads,
    losses, grad, total, count, partial, counter, stats, classes, scaled,
    batch, ignore_index, lam_value, smoothing_value, z_loss, scale,
    TARGET: tl.constexpr, SMOOTH: tl.constexpr, Z_LOSS: tl.constexpr, STATS: tl.constexpr,
    LAM_STRIDE: tl.constexpr, GRAD_OUTPUT_STRIDE: tl.constexpr,
    K: tl.constexpr, D: tl.constexpr,
    LOGITS_STRIDE: tl.constexpr, DENSE_STRIDE: tl.constexpr, GRAD_STRIDE: tl.constexpr,
    FEATURES_STRIDE: tl.constexpr, CENTERS_STRIDE: tl.constexpr,
    STORED: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """One row a program (ROWS = 1), any K: one pass gathers, a second, from the L2 cache, writes the gradient.

    Every column of the tile keeps its own running maximum and the sums shifted by it; they are merged once at the end.
    While a maximum is -inf its sums count every -inf as exp(0); the factor 0 of the first finite logit, or of the
    merge, takes that out again. Where all logits of a row are -inf the merge makes NaN.
    """
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    ok = rows < batch
    if scaled is not None:
        differs = note_scale(scaled, grad_output)
        if STORED and differs == 0:
            return
    valid = ok
    ignored = rows < 0
    live = ok
    if TARGET != DENSE and not STATS:
        ignored = tl.load(first + rows, mask=ok, other=0) == ignore_index
        if second is not None:
            ignored = ignored | (tl.load(second + rows, mask=ok, other=0) == ignore_index)
        live = ok & (ignored == 0)
    loss = tl.zeros([ROWS], tl.float32)
    if tl.max(live.to(tl.int32), 0) != 0:
        s = load_number(smoothing, smoothing_value, rows, ok, 0)
        row_logits = logits + rows[:, None] * LOGITS_STRIDE
        top = tl.full([ROWS, BLOCK], float("-inf"), tl.float32)
        sum_e = tl.zeros([ROWS, BLOCK], tl.float32)
        sum_q = tl.zeros([ROWS, BLOCK], tl.float32)  # of q (dense), of class weights (smoothing)
        sum_qz = tl.zeros([ROWS, BLOCK], tl.float32)  # of the same times z - top
        sum_ez = tl.zeros([ROWS, BLOCK], tl.float32)  # of exp(z - top) (z - top)
        # Where it was met: the column, or, of index targets, the start of its step, which takes fewer registers.
        top_at = tl.full([ROWS, BLOCK], K, tl.int32)
        runner_up = tl.full([ROWS, BLOCK], float("-inf"), tl.float32)
        runner_up_at = tl.full([ROWS, BLOCK], K, tl.int32)
        best_q = tl.full([ROWS, BLOCK], float("-inf"), tl.float32)
        best_q_at = tl.full([ROWS, BLOCK], K, tl.int32)
        for start in range(0, K, BLOCK):
            cols = start + tl.arange(0, BLOCK)
            mask = ok[:, None] & (cols < K)[None, :]
            z = tl.load(row_logits + cols[None, :], mask=mask, other=float("-inf"), eviction_policy="evict_last")
            z = z.to(tl.float32)
            difference = tl.where(z == top, 0.0, z - top)
            up = difference > 0.0
            e = tl.exp(-tl.abs(difference))
            if STATS:
                sum_ez = tl.where(up, product(e, sum_ez - difference * sum_e), sum_ez + product(e, difference))
                at = cols[None, :]
                if TARGET == INDEX:
                    at = start
                if stat_grads is not None:
                    second_now = (z > runner_up) & (top_at < K)
                    runner_up_at = tl.where(up, top_at, tl.where(second_now, at, runner_up_at))
                runner_up = tl.where(up, top, tl.maximum(runner_up, z))
                top_at = tl.where(up | ((top_at == K) & mask), at, top_at)
            sum_e = tl.where(up, sum_e * e + 1.0, sum_e + e)
            top = tl.where(up, z, top)
            rise = tl.where(up, difference, 0.0)
            behind = tl.where(z == float("-inf"), z, z - top)
            if TARGET == DENSE:
                q, t = dense_tile(dense, rows, cols, mask, class_weight, s, DENSE_STRIDE, K)
                sum_qz += product(q, behind) - product(sum_q, rise)
                sum_q += q
                if STATS:
                    better = mask & (t > best_q)
                    best_q = tl.where(better, t, best_q)
                    best_q_at = tl.where(better, cols[None, :], best_q_at)
            elif SMOOTH:
                if class_weight is None:  # sum_q would be the number of steps so far
                    sum_qz += tl.where(mask, behind, 0.0) - product(start // BLOCK * 1.0, rise)
                else:
                    w = tl.load(class_weight + cols, mask=cols < K, other=0.0).to(tl.float32)[None, :]
                    sum_qz += product(w, behind) - product(sum_q, rise)
                    sum_q += w

        if SMOOTH and TARGET != DENSE and class_weight is None:
            lanes = tl.arange(0, BLOCK)
            sum_q += tl.where(lanes < K, (K - 1 - lanes) // BLOCK + 1, 0)[None, :]
        largest = tl.max(top, 1)
        below = top - largest[:, None]
        e = tl.exp(below)
        total_e = tl.where(ok, tl.sum(sum_e * e, 1), 1.0)
        log_e = tl.log(total_e)
        spread_mass = tl.sum(sum_q, 1)
        spread_dot = tl.sum(sum_qz + product(sum_q, below), 1)

        if TARGET == DENSE:
            mass = spread_mass
            dot = spread_dot
        else:
            # The target only now: the pass before has no registers left for it.
            y1, y2, a, b, u, true, valid = mixed_target(
                first, second, lam, smoothing, class_weight, rows, ok, lam_value, smoothing_value, K, LAM_STRIDE
            )
            ignored = (y1 == ignore_index) | (y2 == ignore_index)
            reachable = ok & valid
            dot, mass = at_labels(
                logits, rows, y1, y2, a, b, largest, reachable, LOGITS_STRIDE, second is not None
            )  # fmt: skip
            if SMOOTH:
                dot += product(u, spread_dot)
                mass += u * spread_mass
            if class_weight is None:
                mass = tl.zeros_like(a) + 1.0

        lse, loss, mass = row_loss(mass, dot, largest, log_e, z_loss, Z_LOSS)  # mass is what p is multiplied by
        factor, sample = row_factor(sample_weight, grad_output, denominator, scale, rows, ok, GRAD_OUTPUT_STRIDE)
        if STATS:
            if TARGET == INDEX:
                top_at = tl.minimum(top_at + tl.arange(0, BLOCK)[None, :], K)
                runner_up_at = tl.minimum(runner_up_at + tl.arange(0, BLOCK)[None, :], K)
            predicted = tl.min(tl.where(top == largest[:, None], top_at, K), 1)
            if TARGET == DENSE:
                true = tl.min(tl.where(best_q == tl.max(best_q, 1)[:, None], best_q_at, K), 1)
            at_predicted_column = top_at == predicted[:, None]
            others = tl.where(at_predicted_column, runner_up, top)
            second_best = tl.max(others, 1)
            reachable = ok & valid & (true < K)
            z_true = tl.load(logits + rows * LOGITS_STRIDE + true, mask=reachable, other=0.0).to(tl.float32)
            margin = z_true - tl.where(true == predicted, second_best, largest)
            entropy = log_e - tl.sum(product(e, sum_ez + below * sum_e), 1) / total_e
        if stats is not None:
            store_stats(
                stats, classes, rows, ok, batch, valid, ignored,
                lse, 1.0 / total_e, predicted, entropy, margin, true, features, centers,
                K, D, FEATURES_STRIDE, CENTERS_STRIDE, ROWS, BLOCK_D,
            )  # fmt: skip
        if grad is not None:
            ratio = mass / total_e
            if stat_grads is not None:
                others_at = tl.where(at_predicted_column, runner_up_at, top_at)
                rival = tl.min(tl.where(others == second_best[:, None], others_at, K), 1)
                rival = tl.where(true == predicted, rival, predicted)
                factor, along, across, at_predicted, at_rival, asked = stat_coefficients(
                    stat_grads, factor, sample, log_e, 1.0 / total_e, entropy, margin,
                    valid & (true < K) & (ignored == 0), rows, ok, batch,
                )  # fmt: skip
            tl.debug_barrier()  # grad may be logits itself: no row is written while a thread still gathers z1 from it
            for step in range(tl.cdiv(K, BLOCK)):
                # Backwards: what was read last is still in the cache.
                cols = (tl.cdiv(K, BLOCK) - 1 - step) * BLOCK + tl.arange(0, BLOCK)
                mask = ok[:, None] & (cols < K)[None, :]
                z = tl.load(row_logits + cols[None, :], mask=mask, other=0.0, eviction_policy="evict_first")
                if TARGET == DENSE:
                    q, t = dense_tile(dense, rows, cols, mask, class_weight, s, DENSE_STRIDE, K)
                else:
                    q = mixed_tile(cols, y1, y2, a, b, u, class_weight, K, second is not None, SMOOTH)
                shifted = z.to(tl.float32) - largest[:, None]
                e = tl.exp(shifted)
                g = (e * ratio[:, None] - q) * factor[:, None]
                g = tl.where(ignored[:, None], 0.0, tl.where(valid[:, None], g, float("nan")))
                if stat_grads is not None:
                    g += stat_tile(
                        e / total_e[:, None], shifted, cols, along, across, at_predicted, at_rival, asked,
                        predicted, true, rival,
                    )  # fmt: skip
                tl.store(
                    grad + rows[:, None] * GRAD_STRIDE + cols[None, :], g.to(grad.dtype.element_ty), mask=mask,
                    cache_modifier=".cs",
                )  # fmt: skip
    elif grad is not None and not STORED:
        store_zeros(grad, rows, ok, K, GRAD_STRIDE, BLOCK)
    finish_loss(
        loss, sample_weight, valid, ignored, rows, ok,
        losses, total, count, partial, counter, denominator, scale,
    )  # fmt: skip
