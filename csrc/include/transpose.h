// Rows to columns and back, for tiles that hold one class of many rows: blocks of 4 × 4 floats in registers.
#pragma once

#include <cstdint>

#include "numeric.h"

namespace regfast {

typedef float Four __attribute__((vector_size(16)));

#if defined(__clang__)
#define REGFAST_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
typedef int FourIndices __attribute__((vector_size(16)));
#define REGFAST_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (FourIndices){__VA_ARGS__})
#endif

REGFAST_INLINE void transpose(Four (&x)[4]) {
  const Four a = REGFAST_SHUFFLE(x[0], x[1], 0, 4, 1, 5), b = REGFAST_SHUFFLE(x[0], x[1], 2, 6, 3, 7);
  const Four c = REGFAST_SHUFFLE(x[2], x[3], 0, 4, 1, 5), d = REGFAST_SHUFFLE(x[2], x[3], 2, 6, 3, 7);
  x[0] = REGFAST_SHUFFLE(a, c, 0, 1, 4, 5), x[1] = REGFAST_SHUFFLE(a, c, 2, 3, 6, 7);
  x[2] = REGFAST_SHUFFLE(b, d, 0, 1, 4, 5), x[3] = REGFAST_SHUFFLE(b, d, 2, 3, 6, 7);
}

#undef REGFAST_SHUFFLE

template <class T>
REGFAST_INLINE Four load_four(const T* at) {
  return Four{float(load(at[0])), float(load(at[1])), float(load(at[2])), float(load(at[3]))};
}
template <>
REGFAST_INLINE Four load_four(const float* at) {
  Four x;
  std::memcpy(&x, at, sizeof(Four));
  return x;
}

template <class T>
REGFAST_INLINE void store_four(Four x, T* at) {
  for (int j = 0; j < 4; j++) at[j] = store<T>(Accumulator<T>(x[j]));
}
template <>
REGFAST_INLINE void store_four(Four x, float* at) {
  std::memcpy(at, &x, sizeof(Four));
}

// tile[k][r] = rows[r * stride + k] for 0 ≤ r < L; from `count` on the last row again.
template <int L, class T, class A>
REGFAST_INLINE void to_columns(const T* rows, int64_t stride, int count, int columns, A (*tile)[L]) {
  const auto row = [&](int r) __attribute__((always_inline)) { return rows + (r < count ? r : count - 1) * stride; };
  if (sizeof(A) != sizeof(float) || columns < 4) {
    for (int r = 0; r < L; r++) {
      for (int k = 0; k < columns; k++) tile[k][r] = load(row(r)[k]);
    }
    return;
  }
  for (int r = 0; r < L; r += 4) {
    const T* from[4] = {row(r), row(r + 1), row(r + 2), row(r + 3)};
    for (int block = 0; block < columns; block += 4) {
      const int k = block + 4 <= columns ? block : columns - 4;  // the last block overlaps the one before
      Four x[4];
      for (int i = 0; i < 4; i++) x[i] = load_four(from[i] + k);
      transpose(x);
      for (int j = 0; j < 4; j++) std::memcpy(&tile[k + j][r], &x[j], sizeof(Four));
    }
  }
}

// rows[r * stride + k] = tile[k][r] for 0 ≤ r < count.
template <int L, class T, class A>
REGFAST_INLINE void to_rows(const A (*tile)[L], int count, int columns, T* rows, int64_t stride) {
  const int whole = sizeof(A) != sizeof(float) || columns < 4 ? 0 : count / 4 * 4;
  for (int r = 0; r < whole; r += 4) {
    for (int block = 0; block < columns; block += 4) {
      const int k = block + 4 <= columns ? block : columns - 4;
      Four x[4];
      for (int j = 0; j < 4; j++) std::memcpy(&x[j], &tile[k + j][r], sizeof(Four));
      transpose(x);
      for (int i = 0; i < 4; i++) store_four(x[i], rows + (r + i) * stride + k);
    }
  }
  for (int r = whole; r < count; r++) {
    for (int k = 0; k < columns; k++) rows[r * stride + k] = store<T>(tile[k][r]);
  }
}

}  // namespace regfast
