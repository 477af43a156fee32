// soft_cross_entropy_rows for many classes: one row after the other, vectors along the classes.
#pragma once

#include <cmath>

#include "soft_cross_entropy.h"
#include "sparse_target.h"

namespace regfast {
namespace long_rows {

constexpr int64_t kBlock = 1024;  // summed in A before it goes to a float64 total

// The largest value so far and the block in which it first appeared, and the smallest.
template <class A>
struct Range {
  A largest = -kInfinity<A>, smallest = kInfinity<A>;
  int64_t begin = 0, end = 0;
};

template <class T, class A>
REGFAST_INLINE void find_range(const T* z, int64_t from, int64_t to, Range<A>& range) {
  for (int64_t begin = from; begin < to; begin += kBlock) {
    const int64_t end = begin + kBlock < to ? begin + kBlock : to;
    A high = -kInfinity<A>, low = kInfinity<A>;
#pragma omp simd reduction(max : high) reduction(min : low)
    for (int64_t i = begin; i < end; i++) {
      const A x = load(z[i]);
      high = x > high ? x : high;
      low = x < low ? x : low;
    }
    if (high > range.largest) range.largest = high, range.begin = begin, range.end = end;
    if (low < range.smallest) range.smallest = low;
  }
}

template <class T, class A>
REGFAST_INLINE int64_t position(const T* z, const Range<A>& range) {
  for (int64_t i = range.begin; i < range.end; i++) {
    if (load(z[i]) == range.largest) return i;
  }
  return 0;  // no value above -inf
}

// Sums over the classes, with class weights w (else 1) and a dense target q.
template <class A>
struct Sums {
  A total = 0;   // Σ e
  A offset = 0;  // Σ w (z - m), where wanted
  A mass = 0;    // Σ w q
  A dot = 0;     // Σ w q (z - m)
  A moment = 0;  // Σ e (z - m)

  template <class B>
  REGFAST_INLINE void add(const Sums<B>& other) {
    total += other.total, offset += other.offset, mass += other.mass, dot += other.dot, moment += other.moment;
  }
};

// What a loop over the classes has to do; kDeep: also where the exponential of a logit is 0, and 0 · -inf is 0.
template <bool Dense, bool Weighted, bool Smoothed, bool Stats, bool Deep>
struct Work {
  static constexpr bool kDense = Dense, kWeighted = Weighted, kSmoothed = Smoothed, kStats = Stats, kDeep = Deep;
};

// e = exp(z - m) of a block, and its sums.
template <class Work, bool Fused, class T, class P, class A>
REGFAST_INLINE Sums<A> exponentials(const T* z, const P* q, const A* w, A m, A* e, int64_t n) {
  const A lowest = unknown(kLowestExponent<A>);
  A total = 0, offset = 0, mass = 0, dot = 0, moment = 0;
#pragma omp simd reduction(+ : total, offset, mass, dot, moment)
  for (int64_t i = 0; i < n; i++) {
    const A x = A(load(z[i])) - m;
    const A y = Work::kDeep ? exp_nonpositive<Fused>(x, lowest) : exp_in_range<Fused>(x);
    e[i] = y;
    total += y;
    if (Work::kSmoothed && Work::kWeighted) offset += w[i] != 0 ? w[i] * x : A(0);
    else if (Work::kSmoothed) offset += x;
    if (Work::kDense) {
      A share = A(load(q[i]));
      if (Work::kWeighted) share *= w[i];
      mass += share;
      dot += !Work::kDeep || share != 0 ? share * x : A(0);
    }
    if (Work::kStats) moment += !Work::kDeep || y != 0 ? y * x : A(0);
  }
  return {total, offset, mass, dot, moment};
}

// Σ exp(z - m) over the logits below m, to the last digits: at z - m = -40 the rounding of that difference alone is 2e-6 of e.
template <class T, class A>
REGFAST_INLINE double sum_below(const T* z, const A* e, A m, int64_t classes) {
  double sum = 0;
  for (int64_t begin = 0; begin < classes; begin += kBlock) {
    const int64_t end = begin + kBlock < classes ? begin + kBlock : classes;
    A below = 0;
#pragma omp simd reduction(+ : below)
    for (int64_t i = begin; i < end; i++) {
      const A x = load(z[i]), y = e[i] + e[i] * lost_in_difference(x, m, x - m);
      below += (x < m) & (e[i] != 0) ? y : A(0);
    }
    sum += below;
  }
  return sum;
}

// e (coefficient - slope (z - m)) - q; Sloped: the slope is not 0.
template <bool Dense, bool Weighted, bool Sloped, class T, class P, class A>
REGFAST_INLINE void gradients(const A* e, const T* z, const P* q, const A* w, A m, A coefficient, A slope, A keep, A base,
                              T* grad, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) {
    A share = base;
    if (Dense) share = A(load(q[i])) * keep + base;
    if (Weighted) share *= w[i];
    A height = coefficient;
    if (Sloped) height -= slope * (e[i] != 0 ? A(load(z[i])) - m : A(0));
    grad[i] = store<T>(e[i] * height - share);
  }
}

template <class T>
REGFAST_INLINE void zero(T* grad, int64_t n) {
  for (int64_t i = 0; i < n; i++) grad[i] = T{};
}

template <class T>
REGFAST_INLINE void prefetch(const T* at, int64_t n) {
  constexpr int64_t kLine = 64 / sizeof(T);
  for (int64_t i = 0; i < n; i += kLine) __builtin_prefetch(at + i, 0, 2);
}

// The row after it is fetched meanwhile, but for the last.
template <class Work, bool Fused, class T, class P, class A>
REGFAST_INLINE Sums<double> sums_of_row(const SoftCrossEntropy<T, P>& call, const T* z, const P* q, A m, bool last) {
  const A* w = call.class_weight;
  Sums<double> sums;
  for (int64_t begin = 0; begin < call.classes; begin += kBlock) {
    const int64_t n = begin + kBlock < call.classes ? kBlock : call.classes - begin;
    if (!last) {
      prefetch(z + call.logits_stride + begin, n);
      if (Work::kDense) prefetch(q + call.dense_stride + begin, n);
    }
    sums.add(exponentials<Work, Fused>(z + begin, Work::kDense ? q + begin : q, Work::kWeighted ? w + begin : w, m,
                                       call.scratch + begin, n));
  }
  return sums;
}

template <bool Dense, bool Weighted, bool Stats, bool Fused, class T, class P>
REGFAST_INLINE void one_row(const SoftCrossEntropy<T, P>& call, int64_t row, bool last) {
  using A = Accumulator<T>;
  const int64_t classes = call.classes;
  const T* z = call.logits + row * call.logits_stride;
  const P* q = Dense ? call.dense + row * call.dense_stride : nullptr;
  T* grad = call.grad == nullptr ? nullptr : call.grad + row * call.grad_stride;
  const A* w = call.class_weight;
  A* e = call.scratch;

  SparseTarget target{};
  if (!Dense) target = sparse_target(call, row);
  if (!Dense && target.ignored && !Stats) {
    if (call.loss != nullptr) call.loss[row] = 0;
    if (grad != nullptr) zero(grad, classes);
    return;
  }

  Range<A> range;
  A margin = 0;
  int64_t prediction = 0, label = target.label, rival = 0;  // rival: the largest logit beside the label's
  if (Stats) {
    if (Dense) {
      Range<A> shares;
      find_range(q, 0, classes, shares);
      label = position(q, shares);
    }
    const int64_t at = !Dense && target.ignored ? 0 : label;
    find_range(z, 0, at, range);
    find_range(z, at + 1, classes, range);
    const A own = load(z[at]);
    margin = classes == 1 ? kInfinity<A> : own - range.largest;
    rival = position(z, range);
    prediction = own > range.largest ? at : rival;
    if (own == range.largest && at < prediction) prediction = at;
    if (own > range.largest) range.largest = own;
    if (own < range.smallest) range.smallest = own;
    if (!Dense && target.ignored) margin = kNaN<A>;
  } else {
    find_range(z, 0, classes, range);
  }

  const A m = range.largest;
  const double uniform = call.smoothing / double(classes);
  const double keep = 1 - call.smoothing;
  const bool deep = !(range.smallest - m >= kLowestExponent<A>);
  Sums<double> sums;
  if (Weighted || deep) sums = sums_of_row<Work<Dense, Weighted, true, Stats, true>, Fused>(call, z, q, m, last);
  else if (uniform != 0) sums = sums_of_row<Work<Dense, false, true, Stats, false>, Fused>(call, z, q, m, last);
  else sums = sums_of_row<Work<Dense, false, false, Stats, false>, Fused>(call, z, q, m, last);
  double rest = sums.total - 1;
  if (rest < 1) rest = sum_below(z, e, m, classes);  // one largest logit, whose 1 cost the others digits
  const double sum = 1 + rest;
  const double log_sum = std::log1p(rest);

  double mass = 0, dot = 0;
  if (Dense) {
    mass = keep * sums.mass + uniform * call.class_weight_sum;
    if (keep != 0) dot += keep * sums.dot;
  } else {
    mass = target.mass;
    if (target.share_first != 0) dot += target.share_first * (A(load(z[target.first])) - m);
    if (target.share_second != 0) dot += target.share_second * (A(load(z[target.second])) - m);
  }
  if (uniform != 0) dot += uniform * sums.offset;
  const bool ignored = !Dense && target.ignored;
  const bool defined = !std::isnan(log_sum);  // else a logit is NaN or +inf, or all are -inf
  if (Stats && !defined) margin = kNaN<A>, prediction = 0;
  const double sample = call.sample_weight == nullptr ? 1.0 : double(call.sample_weight[row]);
  double pull = mass, penalty = 0;  // of the softmax on the gradient
  if (call.z_loss != 0) {
    const double log_partition = m + log_sum;
    pull += 2 * call.z_loss * log_partition;
    penalty = call.z_loss * log_partition * log_partition;
  }
  if (call.loss != nullptr) call.loss[row] = ignored ? A(0) : A((mass * log_sum - dot + penalty) * sample);
  if (Stats && call.log_partition != nullptr) {
    call.log_partition[row] = A(m + log_sum);
    call.confidence[row] = A(1 / sum);
    call.entropy[row] = A(log_sum - sums.moment / sum);
    call.margin[row] = margin;
    call.prediction[row] = prediction;
    call.label[row] = label;
  }
  if (grad == nullptr) return;
  const auto given = statistic_gradients(call, row);
  if (ignored && !(Stats && defined && given.any())) return zero(grad, classes);

  const double scale = ignored ? 0.0 : sample * (double(call.grad_scale[row * call.grad_scale_stride]) + given.loss);
  double coefficient = pull * scale, slope = 0, of_confidence = 0, of_margin = 0;
  if (Stats) {
    of_confidence = given.confidence / sum;
    if (std::isfinite(margin)) of_margin = given.margin;
    coefficient += given.log_partition - of_confidence + given.entropy * sums.moment / sum;
    slope = given.entropy / sum;
  }
  const A height = A(coefficient / sum), keep_scaled = A(keep * scale), base = A(uniform * scale);
  if (Stats && slope != 0) {
    gradients<Dense, Weighted, true>(e, z, q, w, m, height, A(slope), keep_scaled, base, grad, classes);
  } else {
    gradients<Dense, Weighted, false>(e, z, q, w, m, height, A(0), keep_scaled, base, grad, classes);
  }
  if (Dense && !Stats) return;
  // Single classes in float64, as (Q e - q - q (S - 1)) / S: at the target's, p - q may cancel.
  const auto entry = [&](int64_t k) __attribute__((always_inline)) {
    double q_k = Dense ? keep * load(q[k]) + uniform : uniform;
    if (Weighted) q_k *= w[k];
    if (!Dense && k == target.first) q_k += target.share_first;
    if (!Dense && k == target.second) q_k += target.share_second;
    double value = ((pull * e[k] - q_k) - q_k * rest) / sum * scale;
    if (Stats) {
      value += e[k] * (coefficient - pull * scale) / sum;
      if (slope != 0 && e[k] != 0) value -= e[k] * slope * (A(load(z[k])) - m);
      if (k == prediction) value += of_confidence;
      if (k == label) value += of_margin;
      if (k == rival) value -= of_margin;
    }
    grad[k] = store<T>(A(value));
  };
  if (!Dense) entry(target.first);
  if (!Dense && target.second != target.first) entry(target.second);
  if (Stats && of_confidence != 0) entry(prediction);
  if (Stats && of_margin != 0) entry(label), entry(rival);
}

template <bool Dense, bool Fused, class T, class P>
REGFAST_INLINE void rows(const SoftCrossEntropy<T, P>& call, int64_t begin, int64_t end) {
  const bool weighted = call.class_weight != nullptr;
  for (int64_t row = begin; row < end; row++) {
    const bool last = row + 1 == end;
    if (weighted && call.stats) one_row<Dense, true, true, Fused>(call, row, last);
    else if (weighted) one_row<Dense, true, false, Fused>(call, row, last);
    else if (call.stats) one_row<Dense, false, true, Fused>(call, row, last);
    else one_row<Dense, false, false, Fused>(call, row, last);
  }
}

}  // namespace long_rows
}  // namespace regfast
