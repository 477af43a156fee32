// soft_cross_entropy_rows for few classes: a vector holds one class of kLanes rows, so that no lane idles.
#pragma once

#include <cmath>

#include "soft_cross_entropy.h"
#include "sparse_target.h"
#include "transpose.h"

namespace regfast {
namespace short_rows {

constexpr int kMostClasses = 64;

template <class A>
constexpr int kLanes = 64 / sizeof(A);

// value where the condition holds, else 0, whatever the value.
REGFAST_INLINE float where(bool condition, float value) {
  return bits_as<float>(bits_as<uint32_t>(value) & -uint32_t(condition));
}
REGFAST_INLINE double where(bool condition, double value) {
  return bits_as<double>(bits_as<uint64_t>(value) & -uint64_t(condition));
}

template <bool Dense, bool Stats, bool Fused, class T, class P>
REGFAST_INLINE void tile(const SoftCrossEntropy<T, P>& call, int64_t begin, int count) {
  using A = Accumulator<T>;
  constexpr int L = kLanes<A>;
  const int classes = int(call.classes);
  alignas(64) A z[kMostClasses][L], e[kMostClasses][L], q[Dense ? kMostClasses : 1][L], w[kMostClasses];
  alignas(64) A mass[L], scale[L], sample[L];
  double share_first[L], share_second[L], exact_mass[L];
  int first[L], second[L], label[L];
  bool ignored[L];
  StatisticGradients<A> given[Stats ? L : 1];

  // Rows past the end repeat the last one; nothing of them is stored.
  to_columns<L>(call.logits + begin * call.logits_stride, call.logits_stride, count, classes, z);
  if (Dense) to_columns<L>(call.dense + begin * call.dense_stride, call.dense_stride, count, classes, q);
  for (int r = 0; r < L; r++) {
    const int64_t row = begin + (r < count ? r : count - 1);
    sample[r] = call.sample_weight == nullptr ? A(1) : call.sample_weight[row];
    scale[r] = call.grad == nullptr ? A(0) : sample[r] * call.grad_scale[row * call.grad_scale_stride];
    if (Stats) {
      given[r] = statistic_gradients(call, row);
      scale[r] += sample[r] * given[r].loss;
    }
    ignored[r] = false;
    if (!Dense) {
      const SparseTarget t = sparse_target(call, row);
      first[r] = int(t.first), second[r] = int(t.second), label[r] = t.ignored ? 0 : int(t.label);
      share_first[r] = t.share_first, share_second[r] = t.share_second, exact_mass[r] = t.mass, mass[r] = A(t.mass);
      ignored[r] = t.ignored;
    }
  }
  for (int k = 0; k < classes; k++) w[k] = call.class_weight == nullptr ? A(1) : call.class_weight[k];

  const double exact_uniform = call.smoothing / classes;
  const A uniform = A(exact_uniform), keep = A(1 - call.smoothing);
  alignas(64) A m[L], below[L], largest[L], dot[L], moment[L];
  for (int r = 0; r < L; r++) m[r] = z[0][r];
  for (int k = 1; k < classes; k++) {
#pragma omp simd
    for (int r = 0; r < L; r++) m[r] = z[k][r] > m[r] ? z[k][r] : m[r];
  }
  if (Dense && Stats) {
    alignas(64) A most[L];
    for (int r = 0; r < L; r++) label[r] = 0, most[r] = q[0][r];
    for (int k = 1; k < classes; k++) {
#pragma omp simd
      for (int r = 0; r < L; r++) {
        label[r] = q[k][r] > most[r] ? k : label[r];
        most[r] = q[k][r] > most[r] ? q[k][r] : most[r];
      }
    }
  }
  const A lowest = unknown(kLowestExponent<A>);
  // The loop over rows is the one that becomes vectors, hence no branch in it and at least one class: the sums stay in registers.
#pragma omp simd
  for (int r = 0; r < L; r++) {
    A sum_below = 0, count_largest = 0, sum_mass = 0, sum_dot = 0, sum_moment = 0;
    int k = 0;
    do {
      const A x = z[k][r] - m[r];
      const A y = where(!(x < lowest), exp_in_range<Fused>(x));
      const A one = where(x >= 0, A(1));  // then y is 1 too
      e[k][r] = y;
      count_largest += one;
      sum_below += y - one;
      if (Dense) {
        const A share = (q[k][r] * keep + uniform) * w[k];
        q[k][r] = share;
        sum_mass += share;
        sum_dot += where(share != 0, share * x);
      } else {
        sum_dot += where(w[k] != 0, w[k] * x);
      }
      if (Stats) sum_moment += where(y != 0, y * x);
    } while (++k < classes);
    below[r] = sum_below, largest[r] = count_largest, dot[r] = sum_dot;
    if (Dense) mass[r] = sum_mass;
    if (Stats) moment[r] = sum_moment;
  }
  A least = kInfinity<A>;
  for (int r = 0; r < L; r++) least = below[r] + (largest[r] - 1) < least ? below[r] + (largest[r] - 1) : least;
  if (least < A(1e-6)) {  // then what rounding took from z - m is more than 1e-6 of a loss so small
    for (int k = 0; k < classes; k++) {
#pragma omp simd
      for (int r = 0; r < L; r++) {
        const A y = e[k][r], x = z[k][r] - m[r], term = y * lost_in_difference(z[k][r], m[r], x);
        below[r] += y != 0 ? term : A(0);
      }
    }
  }
  const A z_loss = A(call.z_loss);
  alignas(64) A log_sum[L], pull[L], penalty[L], coefficient[L];  // pull: of the softmax on the gradient
#pragma omp simd
  for (int r = 0; r < L; r++) {
    log_sum[r] = log1p_nonnegative(below[r] + (largest[r] - 1));
    const A log_partition = where(z_loss != 0, m[r] + log_sum[r]);
    pull[r] = 2 * z_loss * log_partition;
    penalty[r] = z_loss * log_partition * log_partition;
    coefficient[r] = (mass[r] + pull[r]) / (below[r] + largest[r]) * scale[r];
  }

  if (!Dense) {
    for (int r = 0; r < L; r++) {
      double sum = uniform != 0 ? exact_uniform * dot[r] : 0.0;
      if (share_first[r] != 0) sum += share_first[r] * (z[first[r]][r] - m[r]);
      if (share_second[r] != 0) sum += share_second[r] * (z[second[r]][r] - m[r]);
      dot[r] = A(sum);
    }
  }
  if (call.loss != nullptr) {
    for (int r = 0; r < count; r++) {
      call.loss[begin + r] = ignored[r] ? A(0) : (mass[r] * log_sum[r] - dot[r] + penalty[r]) * sample[r];
    }
  }
  if (Stats) {
    alignas(64) A others[L];
    alignas(64) int prediction[L], rival[L];  // rival: the largest logit beside the label's
    for (int r = 0; r < L; r++) others[r] = -kInfinity<A>, prediction[r] = rival[r] = 0;
    for (int k = classes - 1; k >= 0; k--) {
#pragma omp simd
      for (int r = 0; r < L; r++) {
        const A x = z[k][r], other = label[r] == k ? -kInfinity<A> : x;
        prediction[r] = x == m[r] ? k : prediction[r];
        rival[r] = other >= others[r] ? k : rival[r];
        others[r] = other > others[r] ? other : others[r];
      }
    }
    for (int r = 0; r < count; r++) {
      const int64_t row = begin + r;
      const A sum = below[r] + largest[r];
      const bool defined = !std::isnan(log_sum[r]);  // else a logit is NaN or +inf, or all are -inf
      A margin = classes == 1 ? kInfinity<A> : z[label[r]][r] - others[r];
      if (ignored[r] || !defined) margin = kNaN<A>;
      if (!defined) prediction[r] = 0;
      if (call.log_partition != nullptr) {
        call.log_partition[row] = m[r] + log_sum[r];
        call.confidence[row] = 1 / sum;
        call.entropy[row] = log_sum[r] - moment[r] / sum;
        call.margin[row] = margin;
        call.prediction[row] = prediction[r];
        call.label[row] = ignored[r] ? call.ignore_index : label[r];
      }
      if (call.grad_statistics == nullptr) continue;
      // The row's column of z becomes the statistics' part of the gradient.
      if (!given[r].any() || (ignored[r] && !defined)) {
        for (int k = 0; k < classes; k++) z[k][r] = 0;
        continue;
      }
      const A of_confidence = given[r].confidence / sum, slope = given[r].entropy / sum;
      const A height = (given[r].log_partition - of_confidence + slope * moment[r]) / sum;
      for (int k = 0; k < classes; k++) {
        const A y = e[k][r];
        z[k][r] = where(y != 0, y * (height - slope * (z[k][r] - m[r])));
      }
      z[prediction[r]][r] += of_confidence;
      if (std::isfinite(margin)) z[label[r]][r] += given[r].margin, z[rival[r]][r] -= given[r].margin;
    }
  }
  if (call.grad == nullptr) return;

  if (!Dense) {
    // The target's classes in float64, as (Q e - q - q (S - 1)) / S: there p - q may cancel.
    double at_first[L], at_second[L];
    for (int r = 0; r < L; r++) {
      const double rest = double(below[r]) + (double(largest[r]) - 1), sum = 1 + rest;
      const double both = first[r] == second[r] ? share_first[r] + share_second[r] : share_first[r];
      const double q_first = exact_uniform * w[first[r]] + both, q_second = exact_uniform * w[second[r]] + share_second[r];
      const double factor = scale[r] / sum;
      const double exact_pull = exact_mass[r] + pull[r];
      at_first[r] = ((exact_pull * e[first[r]][r] - q_first) - q_first * rest) * factor;
      at_second[r] = ((exact_pull * e[second[r]][r] - q_second) - q_second * rest) * factor;
    }
    for (int k = 0; k < classes; k++) {
      const A share = uniform * w[k];
#pragma omp simd
      for (int r = 0; r < L; r++) e[k][r] = e[k][r] * coefficient[r] - share * scale[r];
    }
    for (int r = 0; r < L; r++) {
      if (first[r] != second[r]) e[second[r]][r] = A(at_second[r]);
      e[first[r]][r] = A(at_first[r]);
    }
  } else {
    for (int k = 0; k < classes; k++) {
#pragma omp simd
      for (int r = 0; r < L; r++) e[k][r] = e[k][r] * coefficient[r] - q[k][r] * scale[r];
    }
  }
  for (int r = 0; r < (Dense ? 0 : count); r++) {
    for (int k = 0; ignored[r] && k < classes; k++) e[k][r] = 0;
  }
  for (int k = 0; Stats && call.grad_statistics != nullptr && k < classes; k++) {
#pragma omp simd
    for (int r = 0; r < L; r++) e[k][r] += z[k][r];
  }
  to_rows<L>(e, count, classes, call.grad + begin * call.grad_stride, call.grad_stride);
}

template <bool Dense, bool Fused, class T, class P>
REGFAST_INLINE void rows(const SoftCrossEntropy<T, P>& call, int64_t begin, int64_t end) {
  constexpr int L = kLanes<Accumulator<T>>;
  for (int64_t row = begin; row < end; row += L) {
    const int count = int(end - row < L ? end - row : L);
    if (call.stats) tile<Dense, true, Fused>(call, row, count);
    else tile<Dense, false, Fused>(call, row, count);
  }
}

}  // namespace short_rows
}  // namespace regfast
