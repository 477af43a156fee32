// A target with at most two classes above the uniform share: what first, second, λ and smoothing say of one row.
#pragma once

#include <cstdint>

#include "isa.h"

namespace regfast {

struct SparseTarget {
  int64_t first, second, label;  // label: the true class
  double share_first, share_second;  // with class weights
  double mass;                       // Σ q
  bool ignored;
};

template <class Call>
REGFAST_INLINE SparseTarget sparse_target(const Call& call, int64_t row) {
  SparseTarget t;
  t.first = call.first[row];
  t.ignored = t.first == call.ignore_index;
  double lambda = 1;
  t.second = t.first;
  if (call.second != nullptr) {
    lambda = call.lam[row * call.lam_stride];
    t.second = call.second[row];
    t.ignored |= t.second == call.ignore_index;
  }
  t.label = lambda >= 0.5 ? t.first : t.second;
  if (t.ignored) t.first = t.second = 0, t.label = call.ignore_index;
  t.share_first = (1 - call.smoothing) * lambda;
  t.share_second = (1 - call.smoothing) * (1 - lambda);
  t.mass = 1;
  if (call.class_weight != nullptr && !t.ignored) {
    t.share_first *= call.class_weight[t.first];
    t.share_second *= call.class_weight[t.second];
    t.mass = t.share_first + t.share_second + call.smoothing / double(call.classes) * call.class_weight_sum;
  }
  return t;
}

}  // namespace regfast
