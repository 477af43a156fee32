// soft_cross_entropy_rows for many classes: one row after the other, vectors along the classes.
#pragma once

#include <cmath>

#include "soft_cross_entropy.h"
#include "sparse_target.h"

namespace regfast {
namespace long_rows {

constexpr int64_t kBlock = 1024;  // summed in A before it goes to a float64 total

// The largest value so far and the block in which it first appeared.
template <class A>
struct Largest {
  A value = -kInfinity<A>;
  int64_t begin = 0, end = 0;
};

template <class T, class A>
REGFAST_INLINE void find_largest(const T* z, int64_t from, int64_t to, Largest<A>& largest) {
  for (int64_t begin = from; begin < to; begin += kBlock) {
    const int64_t end = begin + kBlock < to ? begin + kBlock : to;
    A m = -kInfinity<A>;
#pragma omp simd reduction(max : m)
    for (int64_t i = begin; i < end; i++) {
      const A x = load(z[i]);
      m = x > m ? x : m;
    }
    if (m > largest.value) largest = {m, begin, end};
  }
}

template <class T, class A>
REGFAST_INLINE int64_t position(const T* z, const Largest<A>& largest) {
  for (int64_t i = largest.begin; i < largest.end; i++) {
    if (load(z[i]) == largest.value) return i;
  }
  return 0;  // no value above -inf
}

template <class A>
struct Sums {
  A total = 0;   // Σ e
  A mass = 0;    // dense: Q
  A dot = 0;     // dense: Σ q (z - m); sparse: Σ w (z - m)
  A moment = 0;  // Σ e (z - m)

  template <class B>
  REGFAST_INLINE void add(const Sums<B>& other) {
    total += other.total, mass += other.mass, dot += other.dot, moment += other.moment;
  }
};

// e = exp(z - m) of a block, and its sums.
template <bool Dense, bool Weighted, bool Stats, class T, class P, class A>
REGFAST_INLINE Sums<A> exponentials(const T* z, const P* q, const A* w, A m, A keep, A base, A* e, int64_t n) {
  A total = 0, mass = 0, dot = 0, moment = 0;
#pragma omp simd reduction(+ : total, mass, dot, moment)
  for (int64_t i = 0; i < n; i++) {
    const A x = A(load(z[i])) - m;
    const A y = exp_nonpositive(x);
    e[i] = y;
    total += y;
    if (Dense) {
      A share = A(load(q[i])) * keep + base;
      if (Weighted) share *= w[i];
      mass += share;
      dot += share != 0 ? share * x : A(0);
    } else if (Weighted) {
      dot += w[i] != 0 ? w[i] * x : A(0);
    } else {
      dot += x;
    }
    if (Stats) moment += y != 0 ? y * x : A(0);
  }
  return {total, mass, dot, moment};
}

// Σ e over the logits below m.
template <class T, class A>
REGFAST_INLINE double sum_below(const T* z, const A* e, A m, int64_t classes) {
  double sum = 0;
  for (int64_t begin = 0; begin < classes; begin += kBlock) {
    const int64_t end = begin + kBlock < classes ? begin + kBlock : classes;
    A below = 0;
#pragma omp simd reduction(+ : below)
    for (int64_t i = begin; i < end; i++) below += A(load(z[i])) < m ? e[i] : A(0);
    sum += below;
  }
  return sum;
}

template <bool Dense, bool Weighted, class T, class P, class A>
REGFAST_INLINE void gradients(const A* e, const P* q, const A* w, A coefficient, A keep, A base, T* grad, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) {
    A share = base;
    if (Dense) share = A(load(q[i])) * keep + base;
    if (Weighted) share *= w[i];
    grad[i] = store<T>(e[i] * coefficient - share);
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

template <bool Dense, bool Weighted, bool Stats, class T, class P>
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

  Largest<A> top;
  A margin = 0;
  int64_t prediction = 0, label = target.label;
  if (Stats) {
    if (Dense) {
      Largest<A> share;
      find_largest(q, 0, classes, share);
      label = position(q, share);
    }
    const int64_t at = !Dense && target.ignored ? 0 : label;
    find_largest(z, 0, at, top);
    find_largest(z, at + 1, classes, top);
    const A own = load(z[at]);
    margin = classes == 1 ? kInfinity<A> : own - top.value;
    prediction = own > top.value ? at : position(z, top);
    if (own == top.value && at < prediction) prediction = at;
    if (own > top.value) top.value = own;
    if (!Dense && target.ignored) margin = kNaN<A>;
  } else {
    find_largest(z, 0, classes, top);
  }

  const A m = top.value;
  const double uniform = call.smoothing / double(classes);
  const A keep = A(1 - call.smoothing);
  Sums<double> sums;
  for (int64_t begin = 0; begin < classes; begin += kBlock) {
    const int64_t n = begin + kBlock < classes ? kBlock : classes - begin;
    // Memory works on the next row while the exponentials keep the core busy.
    if (!last) {
      prefetch(z + call.logits_stride + begin, n);
      if (Dense) prefetch(q + call.dense_stride + begin, n);
    }
    sums.add(exponentials<Dense, Weighted, Stats>(z + begin, Dense ? q + begin : q, Weighted ? w + begin : w, m, keep,
                                                  A(uniform), e + begin, n));
  }
  double rest = sums.total - 1;
  if (rest < 1) rest = sum_below(z, e, m, classes);  // one largest logit, whose 1 cost the others digits
  const double sum = 1 + rest;
  const double log_sum = std::log1p(rest);

  double mass = sums.mass, dot = sums.dot;
  if (!Dense) {
    mass = target.mass;
    dot = 0;
    if (target.share_first != 0) dot += target.share_first * (A(load(z[target.first])) - m);
    if (target.share_second != 0) dot += target.share_second * (A(load(z[target.second])) - m);
    if (uniform != 0) dot += uniform * sums.dot;
  }
  const bool ignored = !Dense && target.ignored;
  const double sample = call.sample_weight == nullptr ? 1.0 : double(call.sample_weight[row]);
  if (call.loss != nullptr) call.loss[row] = ignored ? A(0) : A((mass * log_sum - dot) * sample);
  if (Stats) {
    call.log_partition[row] = A(m + log_sum);
    call.confidence[row] = A(1 / sum);
    call.entropy[row] = A(log_sum - sums.moment / sum);
    call.margin[row] = margin;
    call.prediction[row] = prediction;
    call.label[row] = label;
  }
  if (grad == nullptr) return;
  if (ignored) return zero(grad, classes);

  const double scale = sample * double(call.grad_scale[row * call.grad_scale_stride]);
  const double coefficient = mass * scale / sum;
  gradients<Dense, Weighted>(e, q, w, A(coefficient), A(keep * scale), A(uniform * scale), grad, classes);
  if (Dense) return;
  // The target's classes in float64, as (Q e - q - q (S - 1)) / S: there p - q may cancel.
  const auto own = [&](int64_t k, double share) __attribute__((always_inline)) {
    const double q_k = uniform * (Weighted ? double(w[k]) : 1.0) + share;
    grad[k] = store<T>(A(((mass * e[k] - q_k) - q_k * rest) / sum * scale));
  };
  if (target.first == target.second) {
    own(target.first, target.share_first + target.share_second);
  } else {
    own(target.first, target.share_first);
    own(target.second, target.share_second);
  }
}

template <bool Dense, class T, class P>
REGFAST_INLINE void rows(const SoftCrossEntropy<T, P>& call, int64_t begin, int64_t end) {
  const bool weighted = call.class_weight != nullptr;
  for (int64_t row = begin; row < end; row++) {
    const bool last = row + 1 == end;
    if (weighted && call.stats) one_row<Dense, true, true>(call, row, last);
    else if (weighted) one_row<Dense, true, false>(call, row, last);
    else if (call.stats) one_row<Dense, false, true>(call, row, last);
    else one_row<Dense, false, false>(call, row, last);
  }
}

}  // namespace long_rows
}  // namespace regfast
