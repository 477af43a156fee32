// Soft-label cross-entropy of rows: loss, gradient and statistics in one pass over memory.
//
// Per row, with m = max z, e_j = exp(z_j - m), S = Σ e, Q = Σ q, dot = Σ q (z - m): loss = Q log S - dot, gradient
// = Q e / S - q. log S is log1p of what the largest logit adds nothing to, so that a confident row's small loss keeps its
// digits; sums run in blocks whose totals are float64.
#pragma once

#include <cstdint>

#include "numeric.h"

namespace regfast {

// T: format of logits and gradient, P: format of a dense target.
template <class T, class P>
struct SoftCrossEntropy {
  using A = Accumulator<T>;
  int64_t classes = 0;
  const T* logits = nullptr;
  int64_t logits_stride = 0;  // between rows; columns are adjacent
  // The target: dense, or (1 - smoothing)(λ e_first + (1 - λ) e_second) + smoothing / classes.
  const P* dense = nullptr;
  int64_t dense_stride = 0;
  const int64_t* first = nullptr;
  const int64_t* second = nullptr;  // null: first alone
  const A* weight = nullptr;        // λ
  int64_t weight_stride = 0;        // 0: one λ for all rows
  double smoothing = 0;
  int64_t ignore_index = -100;
  const A* class_weight = nullptr;  // null: ones
  double class_weight_sum = 0;      // the number of classes without class weights
  const A* sample_weight = nullptr; // multiplies the row's loss; null: ones
  // Results; null where not wanted.
  A* loss = nullptr;
  T* grad = nullptr;  // may be `logits`
  int64_t grad_stride = 0;
  const A* grad_scale = nullptr;  // multiplies the row's gradient, beside sample_weight
  int64_t grad_scale_stride = 0;
  bool stats = false;  // then all of these:
  A* log_partition = nullptr;
  A* confidence = nullptr;
  A* entropy = nullptr;
  A* margin = nullptr;
  int64_t* prediction = nullptr;
  int64_t* label = nullptr;  // the true class, ignore_index where ignored
  // (classes) per thread
  A* scratch = nullptr;
};

// Rows begin … end - 1. Labels must lie in range (or be ignore_index).
template <class T, class P>
void dense_target_rows(const SoftCrossEntropy<T, P>& call, int64_t begin, int64_t end);
template <class T>
void sparse_target_rows(const SoftCrossEntropy<T, T>& call, int64_t begin, int64_t end);

}  // namespace regfast
