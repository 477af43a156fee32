"""Device functions for the statistics of rows, and for what their gradients add to the rows' own.

Shapes as in `rows`.
"""

import triton
import triton.language as tl

from .feature_kernels import cosine_of, feature_sums
from .rows import product


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
    defined = lse == lse  # else a logit is NaN or +inf, or all are -inf
    predicted = tl.where(defined, predicted, 0)
    tl.store(stats + rows, lse, mask=ok)
    tl.store(stats + batch + rows, confidence, mask=ok)
    tl.store(stats + 2 * batch + rows, entropy, mask=ok)
    tl.store(stats + 3 * batch + rows, tl.where(known & defined, margin, nan), mask=ok)
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

    nothing where none of those on the logits alone is `asked` and the margin has no gradient. Without a softmax none
    is: the row's gradient is NaN already, or 0 because it is ignored.
    """
    of_loss = tl.load(stat_grads + rows, mask=ok, other=0.0)
    of_lse = tl.load(stat_grads + batch + rows, mask=ok, other=0.0)
    of_confidence = product(tl.load(stat_grads + 2 * batch + rows, mask=ok, other=0.0), confidence)
    of_entropy = tl.load(stat_grads + 3 * batch + rows, mask=ok, other=0.0)
    of_margin = tl.load(stat_grads + 4 * batch + rows, mask=ok, other=0.0)
    at_rival = -tl.where(known & (tl.abs(margin) < float("inf")), of_margin, 0.0)
    asked = ((of_lse != 0.0) | (of_confidence != 0.0) | (of_entropy != 0.0)) & (log_e == log_e)
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
