"""The two kernels behind soft cross-entropy, its statistics and its gradient: rows held in registers, rows read twice.

Per row, with m = max z, S = Σ exp(z-m), Q = Σ q, dot = Σ q (z-m): loss = Q log S - dot, gradient = Q exp(z-m)/S - q.
Sums and subtractions are float32 and shifted by m before anything is added: a large common offset costs no digits.
"""

import triton
import triton.language as tl

from .feature_kernels import cosine_of, feature_sums
from .rows import DENSE, add_to_total, dense_tile, first_at, load_number, mixed_target, mixed_tile, product, weigh


@triton.jit
def row_factor(sample_weight, grad_output, denominator, scale, rows, ok, GRAD_OUTPUT_STRIDE: tl.constexpr):
    """What a row's gradient is multiplied by, and its sample weight."""
    sample = load_number(sample_weight, 1.0, rows, ok, 1)
    factor = load_number(grad_output, 1.0, rows, ok, GRAD_OUTPUT_STRIDE) * sample * scale
    if denominator is not None:
        factor = factor / tl.load(denominator)
    return factor, sample


@triton.jit
def finish_loss(loss, sample, valid, ignored, rows, ok, losses, total, count, partial, counter, denominator, scale):
    """Store the rows' losses, times their sample weights, and add them to the total."""
    loss = tl.where(ignored, 0.0, tl.where(valid, loss * sample, float("nan")))
    if losses is not None:
        tl.store(losses + rows, loss, mask=ok)
    if total is not None:
        if denominator is not None:
            scale = scale / tl.load(denominator)
        counted = tl.sum(tl.where(ok & (ignored == 0), 1.0, 0.0), 0)
        add_to_total(partial, counter, total, count, tl.sum(tl.where(ok, loss, 0.0), 0), counted, scale)


@triton.jit
def store_stats(
    stats, classes, rows, ok, batch, valid, ignored,
    lse, confidence, predicted, entropy, margin, true, features, centers,
    K: tl.constexpr, D: tl.constexpr, FEATURES_STRIDE: tl.constexpr, CENTERS_STRIDE: tl.constexpr,
    ROWS: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Rows of `stats`: log_partition, confidence, entropy, margin; with features rms; with centers both cosines.

    Rows of `classes`: predicted, true (-1 where there is none).
    """
    nan = float("nan")
    known = valid & (true < K) & (ignored == 0)
    predicted = tl.where(predicted < K, predicted, 0)  # no maximum: a row of NaN
    tl.store(stats + rows, lse, mask=ok)
    tl.store(stats + batch + rows, confidence, mask=ok)
    tl.store(stats + 2 * batch + rows, entropy, mask=ok)
    tl.store(stats + 3 * batch + rows, tl.where(known, margin, nan), mask=ok)
    tl.store(classes + rows, predicted.to(tl.int64), mask=ok)
    tl.store(classes + batch + rows, tl.where(known, true.to(tl.int64), -1), mask=ok)
    if features is not None:
        square, dot, center_square, dot_predicted, predicted_square = feature_sums(
            features, centers, true, predicted, rows, ok, known, ok, D, FEATURES_STRIDE, CENTERS_STRIDE, ROWS, BLOCK_D
        )
        tl.store(stats + 4 * batch + rows, tl.sqrt(square / D), mask=ok)
        if centers is not None:
            cosine = tl.where(known, cosine_of(dot, square, center_square), nan)
            tl.store(stats + 5 * batch + rows, cosine, mask=ok)
            tl.store(stats + 6 * batch + rows, cosine_of(dot_predicted, square, predicted_square), mask=ok)


@triton.jit
def stat_coefficients(
    stat_grads, factor, sample, log_e, confidence, entropy, margin, known, rows, ok, batch
):  # fmt: skip
    """What the incoming gradients of the statistics (rows of `stat_grads`: loss, log_partition, confidence, entropy,
    margin) add to a row's gradient: to the factor of the loss's, and

        p (along + across (z - max z)) + at_predicted e_predicted + at_rival (e_rival - e_true),

    nothing where none of those on the logits alone is `asked` and the margin has no gradient.
    """
    of_loss = tl.load(stat_grads + rows, mask=ok, other=0.0)
    of_lse = tl.load(stat_grads + batch + rows, mask=ok, other=0.0)
    of_confidence = product(tl.load(stat_grads + 2 * batch + rows, mask=ok, other=0.0), confidence)
    of_entropy = tl.load(stat_grads + 3 * batch + rows, mask=ok, other=0.0)
    of_margin = tl.load(stat_grads + 4 * batch + rows, mask=ok, other=0.0)
    at_rival = -tl.where(known & (tl.abs(margin) < float("inf")), of_margin, 0.0)
    asked = (of_lse != 0.0) | (of_confidence != 0.0) | (of_entropy != 0.0)
    along = of_lse - of_confidence + product(of_entropy, log_e - entropy)
    return factor + of_loss * sample, along, -of_entropy, of_confidence, at_rival, asked


@triton.jit
def stat_tile(p, shifted, cols, along, across, at_predicted, at_rival, asked, predicted, true, rival):
    """The (ROWS, BLOCK) tile of what `stat_coefficients` says."""
    g = product(p, along[:, None] + product(across[:, None], shifted))
    g += tl.where(cols[None, :] == predicted[:, None], at_predicted[:, None], 0.0)
    g = tl.where(asked[:, None], g, 0.0)
    g += tl.where(cols[None, :] == rival[:, None], at_rival[:, None], 0.0)
    return g - tl.where(cols[None, :] == true[:, None], at_rival[:, None], 0.0)


@triton.jit(do_not_specialize=["batch", "ignore_index"])
def one_shot_kernel(
    logits, first, second, dense, lam, smoothing, class_weight, sample_weight, grad_output, denominator,
    features, centers, stat_grads,
    losses, grad, total, count, partial, counter, stats, classes,
    batch, ignore_index, lam_value, smoothing_value, z_loss, scale,
    TARGET: tl.constexpr, SMOOTH: tl.constexpr, Z_LOSS: tl.constexpr, STATS: tl.constexpr,
    LAM_STRIDE: tl.constexpr, GRAD_OUTPUT_STRIDE: tl.constexpr,
    K: tl.constexpr, D: tl.constexpr,
    LOGITS_STRIDE: tl.constexpr, DENSE_STRIDE: tl.constexpr, GRAD_STRIDE: tl.constexpr,
    FEATURES_STRIDE: tl.constexpr, CENTERS_STRIDE: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """ROWS whole rows a program, BLOCK >= K columns in registers: logits and dense target are read once."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    cols = tl.arange(0, BLOCK)
    ok = rows < batch
    inside = (cols < K)[None, :]
    mask = ok[:, None] & inside
    z = tl.load(logits + rows[:, None] * LOGITS_STRIDE + cols[None, :], mask=mask, other=float("-inf")).to(tl.float32)
    largest = tl.where(ok, tl.max(z, 1), 0.0)
    shifted = z - largest[:, None]
    e = tl.exp(shifted)
    total_e = tl.where(ok, tl.sum(e, 1), 1.0)
    log_e = tl.log(total_e)

    if TARGET == DENSE:
        s = load_number(smoothing, smoothing_value, rows, ok, 0)
        q, t = dense_tile(dense, rows, cols, mask, class_weight, s, DENSE_STRIDE, K)
        mass = tl.sum(q, 1)
        dot = tl.sum(product(q, shifted), 1)
        valid = ok
        ignored = rows < 0
    else:
        y1, y2, a, b, u, true, valid = mixed_target(
            first, second, lam, smoothing, class_weight, rows, ok, lam_value, smoothing_value, K, LAM_STRIDE
        )
        ignored = (y1 == ignore_index) | (y2 == ignore_index)
        reachable = ok & valid
        z1 = tl.load(logits + rows * LOGITS_STRIDE + y1, mask=reachable, other=0.0).to(tl.float32)
        dot = product(a, z1 - largest)
        mass = a
        if second is not None:
            z2 = tl.load(logits + rows * LOGITS_STRIDE + y2, mask=reachable, other=0.0).to(tl.float32)
            dot += product(b, z2 - largest)
            mass += b
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

    lse = largest + log_e
    loss = mass * log_e - dot
    if Z_LOSS:
        loss += z_loss * lse * lse
        mass += 2.0 * z_loss * lse  # from here on what p is multiplied by
    factor, sample = row_factor(sample_weight, grad_output, denominator, scale, rows, ok, GRAD_OUTPUT_STRIDE)
    finish_loss(
        loss, sample, valid, ignored, rows, ok,
        losses, total, count, partial, counter, denominator, scale,
    )  # fmt: skip
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
                valid & (true < K) & ~ignored, rows, ok, batch,
            )  # fmt: skip
        g = (e * (mass / total_e)[:, None] - q) * factor[:, None]
        g = tl.where(ignored[:, None], 0.0, tl.where(valid[:, None], g, float("nan")))
        if stat_grads is not None:
            g += stat_tile(
                e / total_e[:, None],
                shifted,
                cols,
                along,
                across,
                at_predicted,
                at_rival,
                asked,
                predicted,
                true,
                rival,
            )
        tl.debug_barrier()  # grad may be logits itself: no row is written while some thread still gathers z1 from it
        tl.store(grad + rows[:, None] * GRAD_STRIDE + cols[None, :], g.to(grad.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["batch", "ignore_index"])
def two_pass_kernel(
    logits, first, second, dense, lam, smoothing, class_weight, sample_weight, grad_output, denominator,
    features, centers, stat_grads,
    losses, grad, total, count, partial, counter, stats, classes,
    batch, ignore_index, lam_value, smoothing_value, z_loss, scale,
    TARGET: tl.constexpr, SMOOTH: tl.constexpr, Z_LOSS: tl.constexpr, STATS: tl.constexpr,
    LAM_STRIDE: tl.constexpr, GRAD_OUTPUT_STRIDE: tl.constexpr,
    K: tl.constexpr, D: tl.constexpr,
    LOGITS_STRIDE: tl.constexpr, DENSE_STRIDE: tl.constexpr, GRAD_STRIDE: tl.constexpr,
    FEATURES_STRIDE: tl.constexpr, CENTERS_STRIDE: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """One row a program (ROWS = 1), any K: one pass gathers, a second, from the L2 cache, writes the gradient.

    Every column of the tile keeps its own running maximum and the sums shifted by it; they are merged once at the end.
    While a maximum is -inf its sums count every -inf as exp(0); the factor 0 of the first finite logit, or of the
    merge, takes that out again. Where all logits of a row are -inf the merge makes NaN.
    """
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    ok = rows < batch
    s = load_number(smoothing, smoothing_value, rows, ok, 0)
    row_logits = logits + rows[:, None] * LOGITS_STRIDE
    top = tl.full([ROWS, BLOCK], float("-inf"), tl.float32)
    sum_e = tl.zeros([ROWS, BLOCK], tl.float32)
    sum_q = tl.zeros([ROWS, BLOCK], tl.float32)  # of q (dense), of class weights (smoothing)
    sum_qz = tl.zeros([ROWS, BLOCK], tl.float32)  # of the same times z - top
    sum_ez = tl.zeros([ROWS, BLOCK], tl.float32)  # of exp(z - top) (z - top)
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
            if stat_grads is not None:
                second_now = (z > runner_up) & (top_at < K)
                runner_up_at = tl.where(up, top_at, tl.where(second_now, cols[None, :], runner_up_at))
            runner_up = tl.where(up, top, tl.maximum(runner_up, z))
            top_at = tl.where(up | ((top_at == K) & mask), cols[None, :], top_at)
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
            if class_weight is None:
                w = tl.where(mask, 1.0, 0.0)
            else:
                w = tl.load(class_weight + cols, mask=cols < K, other=0.0).to(tl.float32)[None, :]
            sum_qz += product(w, behind) - product(sum_q, rise)
            sum_q += w

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
        valid = ok
        ignored = rows < 0
    else:
        y1, y2, a, b, u, true, valid = mixed_target(
            first, second, lam, smoothing, class_weight, rows, ok, lam_value, smoothing_value, K, LAM_STRIDE
        )
        ignored = (y1 == ignore_index) | (y2 == ignore_index)
        reachable = ok & valid
        z1 = tl.load(logits + rows * LOGITS_STRIDE + y1, mask=reachable, other=0.0).to(tl.float32)
        dot = product(a, z1 - largest)
        mass = a
        if second is not None:
            z2 = tl.load(logits + rows * LOGITS_STRIDE + y2, mask=reachable, other=0.0).to(tl.float32)
            dot += product(b, z2 - largest)
            mass += b
        if SMOOTH:
            dot += product(u, spread_dot)
            mass += u * spread_mass
        if class_weight is None:
            mass = tl.zeros_like(a) + 1.0

    lse = largest + log_e
    loss = mass * log_e - dot
    if Z_LOSS:
        loss += z_loss * lse * lse
        mass += 2.0 * z_loss * lse  # from here on what p is multiplied by
    factor, sample = row_factor(sample_weight, grad_output, denominator, scale, rows, ok, GRAD_OUTPUT_STRIDE)
    finish_loss(
        loss, sample, valid, ignored, rows, ok,
        losses, total, count, partial, counter, denominator, scale,
    )  # fmt: skip
    if STATS:
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
                valid & (true < K) & ~ignored, rows, ok, batch,
            )  # fmt: skip
        tl.debug_barrier()  # grad may be logits itself: every thread has gathered z1 and z2 before any row is written
        for step in range(tl.cdiv(K, BLOCK)):
            # Backwards: what was read last is still in the cache.
            cols = (tl.cdiv(K, BLOCK) - 1 - step) * BLOCK + tl.arange(0, BLOCK)
            mask = ok[:, None] & (cols < K)[None, :]
            z = tl.load(row_logits + cols[None, :], mask=mask, other=0.0, eviction_policy="evict_first").to(tl.float32)
            if TARGET == DENSE:
                q, t = dense_tile(dense, rows, cols, mask, class_weight, s, DENSE_STRIDE, K)
            else:
                q = mixed_tile(cols, y1, y2, a, b, u, class_weight, K, second is not None, SMOOTH)
            shifted = z - largest[:, None]
            e = tl.exp(shifted)
            g = (e * ratio[:, None] - q) * factor[:, None]
            g = tl.where(ignored[:, None], 0.0, tl.where(valid[:, None], g, float("nan")))
            if stat_grads is not None:
                g += stat_tile(
                    e / total_e[:, None], shifted, cols, along, across, at_predicted, at_rival, asked, predicted, true,
                    rival,
                )  # fmt: skip
            tl.store(
                grad + rows[:, None] * GRAD_STRIDE + cols[None, :], g.to(grad.dtype.element_ty), mask=mask,
                cache_modifier=".cs",
            )  # fmt: skip


@triton.jit(do_not_specialize=["batch", "ignore_index"])
def denominator_kernel(first, second, class_weight, sample_weight, denominator, batch, ignore_index, K: tl.constexpr):
    """Σ sample_weight · class_weight[first] over rows not ignored; either weight may be absent. One program."""
    lanes = tl.arange(0, 1024)
    sums = tl.zeros([1024], tl.float32)
    for start in range(0, batch, 1024):
        rows = start + lanes
        ok = rows < batch
        w = tl.where(ok, 1.0, 0.0)
        if first is not None:
            label = tl.load(first + rows, mask=ok, other=0)
            reachable = ok & (label >= 0) & (label < K)
            w = weigh(w, class_weight, label, reachable)
            w = tl.where(label == ignore_index, 0.0, w)
        if second is not None:
            w = tl.where(tl.load(second + rows, mask=ok, other=0) == ignore_index, 0.0, w)
        if sample_weight is not None:
            w *= tl.load(sample_weight + rows, mask=ok, other=0.0).to(tl.float32)
        sums += w
    tl.store(denominator, tl.sum(sums, 0))


@triton.jit(do_not_specialize=["batch"])
def rescale_kernel(
    grad, out, grad_output, count, size, batch, K: tl.constexpr, STRIDE: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """out = grad · grad_output · batch / count, the last three device scalars; without `out` in place, unless it is 1.

    The forward pass divided by `batch`, since it could not know yet how many rows count. Rows of `grad` lie STRIDE
    apart: what is between them stays as it is.
    """
    scale = tl.load(grad_output).to(tl.float32)
    if count is not None:
        scale *= batch / tl.load(count)
    if out is not None or scale != 1.0:
        step = tl.num_programs(0).to(tl.int64) * BLOCK
        for start in range(tl.program_id(0).to(tl.int64) * BLOCK, size, step):
            flat = start + tl.arange(0, BLOCK)
            at = flat
            if STRIDE != K:
                at = flat // K * STRIDE + flat % K
            g = tl.load(grad + at, mask=flat < size, other=0.0).to(tl.float32)
            scaled = product(g, scale).to(grad.dtype.element_ty)
            if out is None:
                tl.store(grad + at, scaled, mask=flat < size)
            else:
                tl.store(out + flat, scaled, mask=flat < size)
