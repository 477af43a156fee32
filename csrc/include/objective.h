// Attack objectives of rows: value, prediction and gradient on the logits (regfast/ops/objective.py has the table).
#pragma once

#include <cmath>
#include <cstdint>

#include "numeric.h"

namespace regfast {

enum class ObjectiveKind { kCrossEntropy, kMargin, kLogitRatio, kProbabilityMargin };

template <class T>
struct Objective {
  using A = Accumulator<T>;
  ObjectiveKind kind;
  bool targeted = false;
  int64_t classes = 0;
  const T* logits = nullptr;
  int64_t logits_stride = 0;
  const int64_t* labels = nullptr;
  const int64_t* targets = nullptr;
  A* loss = nullptr;
  int64_t* prediction = nullptr;
  T* gradient = nullptr;  // adjacent rows
  A* scratch = nullptr;   // (classes) per thread
};

// Rows begin … end - 1; labels and targets in range.
template <class T>
void objective_rows(const Objective<T>& call, int64_t begin, int64_t end);

namespace objectives {

// The largest logits, in falling order, the lowest index first among equals.
template <class A, int N>
struct Top {
  A value[N];
  int64_t index[N];
};

template <int N, class T, class A>
REGFAST_INLINE Top<A, N> largest(const T* z, int64_t classes) {
  Top<A, N> top;
  for (int i = 0; i < N; i++) top.value[i] = -kInfinity<A>, top.index[i] = -1;
  constexpr int64_t kBlock = 64;
  for (int64_t begin = 0; begin < classes; begin += kBlock) {
    const int64_t end = begin + kBlock < classes ? begin + kBlock : classes;
    // Most blocks hold nothing that belongs to the top.
    A m = -kInfinity<A>;
#pragma omp simd reduction(max : m)
    for (int64_t k = begin; k < end; k++) {
      const A x = load(z[k]);
      m = x > m ? x : m;
    }
    if (!(m > top.value[N - 1]) && top.index[N - 1] >= 0) continue;
    for (int64_t k = begin; k < end; k++) {
      const A x = load(z[k]);
      if (!(x > top.value[N - 1]) && top.index[N - 1] >= 0) continue;
      int at = N - 1;
      while (at > 0 && (top.index[at - 1] < 0 || x > top.value[at - 1])) {
        top.value[at] = top.value[at - 1], top.index[at] = top.index[at - 1];
        at--;
      }
      top.value[at] = x, top.index[at] = k;
    }
  }
  return top;
}

// e = exp(z - m); returns the sum without the largest logits' own ones (`below`) and with them.
template <class T, class A>
REGFAST_INLINE double exponentials(const T* z, A m, A* e, int64_t classes, double& below) {
  constexpr int64_t kBlock = 1024;
  const A lowest = unknown(kLowestExponent<A>);
  double total = 0;
  below = 0;
  for (int64_t begin = 0; begin < classes; begin += kBlock) {
    const int64_t end = begin + kBlock < classes ? begin + kBlock : classes;
    A sum = 0, top = 0;
#pragma omp simd reduction(+ : sum, top)
    for (int64_t k = begin; k < end; k++) {
      const A x = A(load(z[k])) - m;
      const A y = exp_nonpositive<false>(x, lowest);
      e[k] = y;
      sum += x >= 0 ? A(0) : y;
      top += x >= 0 ? A(1) : A(0);
    }
    below += sum;
    total += double(sum) + top;
  }
  below += (total - below) - 1;  // ties with the largest count as below it, all but one
  return total;
}

template <class T>
REGFAST_INLINE void one_row(const Objective<T>& call, int64_t row) {
  using A = Accumulator<T>;
  const int64_t classes = call.classes;
  const T* z = call.logits + row * call.logits_stride;
  T* g = call.gradient + row * classes;
  const int64_t label = call.labels[row];
  const auto at = [z](int64_t k) { return double(load(z[k])); };

  if (call.kind == ObjectiveKind::kCrossEntropy || call.kind == ObjectiveKind::kProbabilityMargin) {
    const Top<A, 2> top = largest<2, T, A>(z, classes);
    call.prediction[row] = top.index[0];
    A* e = call.scratch;
    double below;
    const double sum = exponentials(z, top.value[0], e, classes, below);
    if (call.kind == ObjectiveKind::kCrossEntropy) {
      const int64_t to = call.targeted ? call.targets[row] : label;
      const double sign = call.targeted ? -1 : 1;
      call.loss[row] = A(sign * (std::log1p(below) - (at(to) - top.value[0])));
      const A factor = A(sign / sum);
#pragma omp simd
      for (int64_t k = 0; k < classes; k++) g[k] = store<T>(e[k] * factor);
      const double rest = to == top.index[0] ? below : sum - e[to];
      g[to] = store<T>(A(-sign * rest / sum));
      return;
    }
    const int64_t to = call.targeted ? call.targets[row] : (top.index[0] == label ? top.index[1] : top.index[0]);
    const double up = e[to] / sum, down = e[label] / sum, loss = up - down;
    call.loss[row] = A(loss);
    const A factor = A(-loss / sum);
#pragma omp simd
    for (int64_t k = 0; k < classes; k++) g[k] = store<T>(e[k] * factor);
    // Where both are one class the terms cancel.
    if (to != label) {
      g[to] = store<T>(A(up * (1 - loss)));
      g[label] = store<T>(A(-down * (1 + loss)));
    }
    return;
  }

  for (int64_t k = 0; k < classes; k++) g[k] = T{};
  if (call.kind == ObjectiveKind::kMargin) {
    const Top<A, 2> top = largest<2, T, A>(z, classes);
    call.prediction[row] = top.index[0];
    const int64_t to = call.targeted ? call.targets[row] : (top.index[0] == label ? top.index[1] : top.index[0]);
    call.loss[row] = A(at(to) - at(label));
    if (to != label) g[to] = store<T>(1), g[label] = store<T>(-1);
    return;
  }
  // DLR. Untargeted the fourth entry repeats the third, so that their mean is the third.
  int64_t index[4];
  double low;
  if (call.targeted) {
    const Top<A, 4> top = largest<4, T, A>(z, classes);
    for (int i = 0; i < 4; i++) index[i] = top.index[i];
    low = 0.5 * (double(top.value[2]) + double(top.value[3]));
  } else {
    const Top<A, 3> top = largest<3, T, A>(z, classes);
    for (int i = 0; i < 3; i++) index[i] = top.index[i];
    index[3] = index[2];
    low = top.value[2];
  }
  call.prediction[row] = index[0];
  const int64_t to = call.targeted ? call.targets[row] : (index[0] == label ? index[1] : index[0]);
  const double scale = 1 / (at(index[0]) - low + 1e-12);
  const double loss = (at(to) - at(label)) * scale;
  call.loss[row] = A(loss);
  const int64_t where[5] = {to, label, index[0], index[2], index[3]};
  const double amount[5] = {scale, -scale, -loss * scale, 0.5 * loss * scale, 0.5 * loss * scale};
  for (int i = 0; i < 5; i++) {  // each class once, with all its terms: the sum is rounded once
    double total = 0;
    for (int j = 0; j < 5; j++) total += where[j] == where[i] ? amount[j] : 0;
    g[where[i]] = store<T>(A(total));
  }
}

}  // namespace objectives
}  // namespace regfast
