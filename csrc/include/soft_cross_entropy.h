// Soft-label cross-entropy of rows: loss, gradient and statistics in one pass over memory.
//
// Per row, with m = max z, e_j = exp(z_j - m), S = Σ e, Q = Σ q, dot = Σ q (z - m), lse = m + log S and the coefficient c of
// the z-loss: loss = Q log S - dot + c lse², gradient = (Q + 2 c lse) e / S - q. log S is log1p of what the largest logit adds nothing to, so that a confident row's small loss keeps its
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
  const A* lam = nullptr;        // λ
  int64_t lam_stride = 0;        // 0: one λ for all rows
  double smoothing = 0;
  int64_t ignore_index = -100;
  const A* class_weight = nullptr;  // null: ones
  double class_weight_sum = 0;      // the number of classes without class weights
  double z_loss = 0;
  const A* sample_weight = nullptr; // multiplies the row's loss; null: ones
  // Results; null where not wanted.
  A* loss = nullptr;
  T* grad = nullptr;  // may be `logits`
  int64_t grad_stride = 0;
  const A* grad_scale = nullptr;  // multiplies the row's gradient, beside sample_weight
  int64_t grad_scale_stride = 0;
  // Gradients of the row's loss, log_partition, confidence, entropy and margin, `statistics` apart, for `grad`; null: zeros.
  const A* grad_statistics = nullptr;
  int64_t statistics = 0;
  bool stats = false;  // wanted, or their gradients given. Results, null where not wanted, all of:
  A* log_partition = nullptr;
  A* confidence = nullptr;
  A* entropy = nullptr;
  A* margin = nullptr;
  int64_t* prediction = nullptr;
  int64_t* label = nullptr;  // the true class, ignore_index where ignored
  // (classes) per thread
  A* scratch = nullptr;
};

// The incoming gradients of a row's statistics.
template <class A>
struct StatisticGradients {
  A loss = 0, log_partition = 0, confidence = 0, entropy = 0, margin = 0;

  REGFAST_INLINE bool any() const {
    return loss != 0 || log_partition != 0 || confidence != 0 || entropy != 0 || margin != 0;
  }
};

template <class T, class P>
REGFAST_INLINE StatisticGradients<Accumulator<T>> statistic_gradients(const SoftCrossEntropy<T, P>& call, int64_t row) {
  if (call.grad_statistics == nullptr) return {};
  const auto* given = call.grad_statistics + row;
  const int64_t n = call.statistics;
  return {given[0], given[n], given[2 * n], given[3 * n], given[4 * n]};
}

// Rows begin … end - 1. Labels must lie in range (or be ignore_index).
template <class T, class P>
void dense_target_rows(const SoftCrossEntropy<T, P>& call, int64_t begin, int64_t end);
template <class T>
void sparse_target_rows(const SoftCrossEntropy<T, T>& call, int64_t begin, int64_t end);

}  // namespace regfast
