"""Kernels over feature rows: RMS and the cosines to two center rows, forward and backward."""

import triton
import triton.language as tl


@triton.jit
def inverse_norms(square, center_square):
    """1 / (‖v‖ ‖c‖), 0 where either is 0."""
    norms = tl.sqrt(square) * tl.sqrt(center_square)
    return tl.where(norms == 0.0, 0.0, 1.0 / norms)


@triton.jit
def cosine_of(dot, square, center_square):
    """Cosine from v·c, ‖v‖² and ‖c‖²; 0 where a norm is 0."""
    return dot * inverse_norms(square, center_square)


@triton.jit
def feature_sums(
    features, centers, true, predicted, rows, ok, has_true, has_predicted,
    D: tl.constexpr, FEATURES_STRIDE: tl.constexpr, CENTERS_STRIDE: tl.constexpr,
    ROWS: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """‖v‖², v·c and ‖c‖² for the true class's center, the same for the predicted one's; 0 without a center."""
    square = tl.zeros([ROWS], tl.float32)
    dot = tl.zeros([ROWS], tl.float32)
    center_square = tl.zeros([ROWS], tl.float32)
    dot_predicted = tl.zeros([ROWS], tl.float32)
    predicted_square = tl.zeros([ROWS], tl.float32)
    for start in range(0, D, BLOCK_D):
        d = start + tl.arange(0, BLOCK_D)
        inside = (d < D)[None, :]
        v = tl.load(features + rows[:, None] * FEATURES_STRIDE + d[None, :], mask=ok[:, None] & inside, other=0.0)
        v = v.to(tl.float32)
        square += tl.sum(v * v, 1)
        if centers is not None:
            c = center_tile(centers, true, d, (ok & has_true)[:, None] & inside, CENTERS_STRIDE)
            dot += tl.sum(v * c, 1)
            center_square += tl.sum(c * c, 1)
            c = center_tile(centers, predicted, d, (ok & has_predicted)[:, None] & inside, CENTERS_STRIDE)
            dot_predicted += tl.sum(v * c, 1)
            predicted_square += tl.sum(c * c, 1)
    return square, dot, center_square, dot_predicted, predicted_square


@triton.jit
def center_tile(centers, label, d, mask, CENTERS_STRIDE: tl.constexpr):
    """Columns `d` of each row's center, 0 outside `mask`."""
    at = label.to(tl.int64)[:, None] * CENTERS_STRIDE + d[None, :]
    return tl.load(centers + at, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def load_class(pointer, rows, ok, K: tl.constexpr):
    """Class of each row and whether it is one of 0..K-1; without `pointer` none is."""
    if pointer is None:
        return tl.zeros_like(rows), rows < 0
    else:
        label = tl.load(pointer + rows, mask=ok, other=-1)
        return label, (label >= 0) & (label < K)


@triton.jit(do_not_specialize=["batch"])
def feature_stats_kernel(
    features, centers, labels, predictions, out, batch,
    K: tl.constexpr, D: tl.constexpr, FEATURES_STRIDE: tl.constexpr, CENTERS_STRIDE: tl.constexpr,
    ROWS: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Rows of `out` (3, batch): rms, cosine, cosine_predicted."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    ok = rows < batch
    true, has_true = load_class(labels, rows, ok, K)
    predicted, has_predicted = load_class(predictions, rows, ok, K)
    square, dot, center_square, dot_predicted, predicted_square = feature_sums(
        features, centers, true, predicted, rows, ok, has_true, has_predicted,
        D, FEATURES_STRIDE, CENTERS_STRIDE, ROWS, BLOCK_D,
    )  # fmt: skip
    nan = float("nan")
    tl.store(out + rows, tl.sqrt(square / D), mask=ok)
    tl.store(out + batch + rows, tl.where(has_true, cosine_of(dot, square, center_square), nan), mask=ok)
    cosine_predicted = tl.where(has_predicted, cosine_of(dot_predicted, square, predicted_square), nan)
    tl.store(out + 2 * batch + rows, cosine_predicted, mask=ok)


@triton.jit(do_not_specialize=["batch"])
def feature_stats_backward_kernel(
    features, centers, labels, predictions, grad_rms, grad_cosine, grad_predicted, grad, batch,
    K: tl.constexpr, D: tl.constexpr, FEATURES_STRIDE: tl.constexpr, CENTERS_STRIDE: tl.constexpr,
    ROWS: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """∂rms = v / (D rms), ∂cosine = c / (‖v‖‖c‖) - cosine v / ‖v‖²; 0 where v = 0 or there is no center."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    ok = rows < batch
    true, has_true = load_class(labels, rows, ok, K)
    predicted, has_predicted = load_class(predictions, rows, ok, K)
    square, dot, center_square, dot_predicted, predicted_square = feature_sums(
        features, centers, true, predicted, rows, ok, has_true, has_predicted,
        D, FEATURES_STRIDE, CENTERS_STRIDE, ROWS, BLOCK_D,
    )  # fmt: skip
    inverse_square = tl.where(square == 0.0, 0.0, 1.0 / square)
    g = tl.load(grad_rms + rows, mask=ok, other=0.0)
    along = g * tl.sqrt(square / D) * inverse_square  # coefficient of v; v/(D rms) = v rms/‖v‖²
    to_true = tl.zeros([ROWS], tl.float32)
    to_predicted = tl.zeros([ROWS], tl.float32)
    if centers is not None:
        g = tl.load(grad_cosine + rows, mask=ok & has_true, other=0.0)
        to_true = g * inverse_norms(square, center_square)
        along -= to_true * dot * inverse_square
        g = tl.load(grad_predicted + rows, mask=ok & has_predicted, other=0.0)
        to_predicted = g * inverse_norms(square, predicted_square)
        along -= to_predicted * dot_predicted * inverse_square
    for start in range(0, D, BLOCK_D):
        d = start + tl.arange(0, BLOCK_D)
        mask = ok[:, None] & (d < D)[None, :]
        v = tl.load(features + rows[:, None] * FEATURES_STRIDE + d[None, :], mask=mask, other=0.0).to(tl.float32)
        out = along[:, None] * v
        if centers is not None:
            out += to_true[:, None] * center_tile(centers, true, d, mask & has_true[:, None], CENTERS_STRIDE)
            out += to_predicted[:, None] * center_tile(
                centers, predicted, d, mask & has_predicted[:, None], CENTERS_STRIDE
            )
        tl.store(grad + rows[:, None] * D + d[None, :], out.to(grad.dtype.element_ty), mask=mask)
