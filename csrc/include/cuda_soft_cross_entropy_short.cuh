// Soft-label cross-entropy on CUDA for at most 32 classes, rows without gaps: a thread a row.
//
// A block copies its rows to shared memory as one run of 16-byte words, then a thread has a row. A word of padding after
// every 32 keeps the threads of a warp in different banks.
#pragma once

#include "cuda_soft_cross_entropy_row.cuh"

namespace regfast::cuda {

__device__ __forceinline__ int padded(int index) { return index + (index >> 5); }

// Whether one of the entries begin … begin + size - 1 lies in a row whose bit is set; true where there are no bits.
__device__ __forceinline__ bool any_kept(const unsigned* kept, int begin, int size, int columns) {
  if (kept == nullptr) return true;
  bool any = false;
  for (int row = begin / columns; row * columns < begin + size; ++row) any |= (kept[row >> 5] >> (row & 31) & 1) != 0;
  return any;
}

// Rows whose bit in `kept` is not set need not arrive.
template <typename T>
__device__ __forceinline__ void copy_in(float* shared, const T* global, int count, const unsigned* kept, int columns) {
  int at = threadIdx.x * kPerVector<T>;
  if (is_aligned(global)) {
    for (; at + kPerVector<T> <= count; at += blockDim.x * kPerVector<T>) {
      if (!any_kept(kept, at, kPerVector<T>, columns)) continue;
      const Vector<T> packed = *reinterpret_cast<const Vector<T>*>(global + at);
#pragma unroll
      for (int e = 0; e < kPerVector<T>; ++e) shared[padded(at + e)] = to_float(packed.at[e]);
    }
    // At most one thread is left inside an incomplete vector.
    for (int e = at; e < count && e < at + kPerVector<T>; ++e) shared[padded(e)] = to_float(global[e]);
  } else {
    for (int e = threadIdx.x; e < count; e += blockDim.x) {
      if (any_kept(kept, e, 1, columns)) shared[padded(e)] = to_float(global[e]);
    }
  }
}

template <typename T>
__device__ __forceinline__ void copy_out(T* global, const float* shared, int count) {
  int at = threadIdx.x * kPerVector<T>;
  if (is_aligned(global)) {
    for (; at + kPerVector<T> <= count; at += blockDim.x * kPerVector<T>) {
      Vector<T> packed;
#pragma unroll
      for (int e = 0; e < kPerVector<T>; ++e) packed.at[e] = from_float<T>(shared[padded(at + e)]);
      *reinterpret_cast<Vector<T>*>(global + at) = packed;
    }
    for (int e = at; e < count && e < at + kPerVector<T>; ++e) global[e] = from_float<T>(shared[padded(e)]);
  } else {
    for (int e = threadIdx.x; e < count; e += blockDim.x) global[e] = from_float<T>(shared[padded(e)]);
  }
}

template <typename T, typename D, bool DENSE>
__global__ void __launch_bounds__(kShortRows)
    short_rows_kernel(const LossArguments arguments, bool look_first) {
  constexpr int kWords = kShortRows * kShortColumns + kShortRows * kShortColumns / 32;
  __shared__ float z[kWords];
  __shared__ float t[DENSE ? kWords : 1];
  __shared__ unsigned kept[kShortRows / 32];  // a bit a row
  const int columns = arguments.columns;
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * kShortRows;
  const int rows = static_cast<int>(min(static_cast<int64_t>(kShortRows), arguments.batch - begin));
  if (is_done(arguments)) return;
  const int64_t row = begin + threadIdx.x;
  const bool mine = threadIdx.x < rows;
  Labels labels{0, 0};
  bool ignored = false;
  const unsigned* only = nullptr;
  if constexpr (!DENSE) {
    if (mine) labels = labels_of(arguments, row), ignored = is_ignored(labels);
    if (look_first) {
      const unsigned counted = __ballot_sync(0xffffffffu, mine && !ignored);
      if ((threadIdx.x & 31) == 0) kept[threadIdx.x >> 5] = counted;
      if (__syncthreads_or(ignored) != 0) only = kept;
    }
  }
  copy_in(z, static_cast<const T*>(arguments.logits) + begin * columns, rows * columns, only, columns);
  if constexpr (DENSE) copy_in(t, static_cast<const D*>(arguments.dense) + begin * columns, rows * columns, nullptr, columns);
  const float scale = scale_of(arguments);
  __syncthreads();

  float loss = 0.0f;
  if (ignored) {
    if (arguments.losses != nullptr) arguments.losses[row] = 0.0f;
    for (int c = 0; arguments.grad != nullptr && c < columns; ++c) z[padded(threadIdx.x * columns + c)] = 0.0f;
  } else if (mine) {
    const int base = threadIdx.x * columns;
    const float s = smoothing_of(arguments);
    const Mixture mixture = mixture_of(arguments, row, labels, s);
    float largest = -INFINITY;
    for (int c = 0; c < columns; ++c) largest = fmaxf(largest, z[padded(base + c)]);
    Exponentials sums;
    float mass = 0.0f, dot = 0.0f;
    for (int c = 0; c < columns; ++c) {
      const float shifted = z[padded(base + c)] - largest;
      sums.add(shifted, exponential<T>(shifted));
      float q = mixture.u;
      if constexpr (DENSE) q += (1.0f - s) * t[padded(base + c)];
      q *= class_weight_of(arguments, c);
      if constexpr (!DENSE) {
        if (c == mixture.first) q += mixture.a;
        if (c == mixture.second) q += mixture.b;
      }
      mass += q;
      dot += product(q, shifted);
    }
    if (!DENSE && arguments.class_weight == nullptr) mass = 1.0f;
    const float rest = rest_of(sums.below, sums.largest);
    const float log_sum = log1pf(rest);
    const Penalty penalty = penalty_of(arguments, largest + log_sum);
    loss = finished_loss(arguments, row, mixture, mass * log_sum - dot + penalty.loss);
    if (arguments.losses != nullptr) arguments.losses[row] = loss;
    if (arguments.grad != nullptr) {
      const float factor = factor_of(arguments, row, scale) / (1.0f + rest), pull = mass + penalty.pull;
      for (int c = 0; c < columns; ++c) {
        float q = mixture.u;
        if constexpr (DENSE) q += (1.0f - s) * t[padded(base + c)];
        q *= class_weight_of(arguments, c);
        if constexpr (!DENSE) {
          if (c == mixture.first) q += mixture.a;
          if (c == mixture.second) q += mixture.b;
        }
        const float g = gradient_of(exponential<T>(z[padded(base + c)] - largest), q, pull, rest, factor);
        z[padded(base + c)] = mixture.valid ? g : NAN;
      }
    }
  }
  if (arguments.grad != nullptr) {
    __syncthreads();
    copy_out(static_cast<T*>(arguments.grad) + begin * columns, z, rows * columns);
  }
  if (arguments.total.value != nullptr) {
    add_to_total(arguments.total, sum_block(loss), blockIdx.x, gridDim.x, scale);
  }
}

template <typename T, typename D, bool DENSE>
cudaError_t launch_short_rows(const LossArguments& arguments, const Device& device, cudaStream_t stream) {
  const int64_t blocks = (arguments.batch + kShortRows - 1) / kShortRows;
  // Labels before logits, so that nobody fetches ignored rows: where other blocks fill the wait.
  const bool look_first = blocks > 8 * static_cast<int64_t>(device.processors);
  return launch(short_rows_kernel<T, D, DENSE>, blocks, kShortRows, 0, 1, stream, arguments, look_first);
}

}  // namespace regfast::cuda
