// The row kernels of soft_cross_entropy: an entry per format of logits and dense target, a file per format of logits.
#pragma once

#include "../include/soft_cross_entropy.h"
#include "../include/soft_cross_entropy_long.h"
#include "../include/soft_cross_entropy_short.h"

namespace regfast {

template <bool Dense, bool Fused, class T, class P>
REGFAST_INLINE void rows(const SoftCrossEntropy<T, P>& call, int64_t begin, int64_t end) {
  if (call.classes <= short_rows::kMostClasses) short_rows::rows<Dense, Fused>(call, begin, end);
  else long_rows::rows<Dense, Fused>(call, begin, end);
}

#define DENSE_ROWS(T, P)                                                                                   \
  REGFAST_VERSIONS(void dense_rows_##T##_##P(const SoftCrossEntropy<T, P>& call, int64_t begin, int64_t end), \
                   rows<true, kFused>(call, begin, end);)                                                  \
  template <>                                                                                              \
  void dense_target_rows<T, P>(const SoftCrossEntropy<T, P>& call, int64_t begin, int64_t end) {           \
    dense_rows_##T##_##P(call, begin, end);                                                                \
  }

#define SPARSE_ROWS(T)                                                                                     \
  REGFAST_VERSIONS(void sparse_rows_##T(const SoftCrossEntropy<T, T>& call, int64_t begin, int64_t end),   \
                   rows<false, kFused>(call, begin, end);)                                                 \
  template <>                                                                                              \
  void sparse_target_rows<T>(const SoftCrossEntropy<T, T>& call, int64_t begin, int64_t end) {             \
    sparse_rows_##T(call, begin, end);                                                                     \
  }

}  // namespace regfast
