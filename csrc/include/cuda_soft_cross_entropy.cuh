// Soft-label cross-entropy on CUDA: rows of at most 32 classes (a thread a row), and any rows (a block or a cluster a row).
//
// Per row, with m = max z, S = Σ exp(z-m), Q = Σ q, dot = Σ q (z-m): loss = Q log S - dot, gradient = Q exp(z-m)/S - q.
// S is kept as 1 + rest, so that neither log S nor Q/S - q loses the digits of a confident row.
#pragma once

#include "cuda_rows.cuh"

namespace regfast::cuda {

// q = (1-s)(λ e_first + (1-λ) e_second) + s/K, or (1-s) dense + s/K; times class weights. Rows have `columns` adjacent
// elements; a pointer that is null stands for what the comment says.
struct LossArguments {
  const void* logits;
  int64_t logits_stride;
  int64_t batch;
  int columns;
  const int64_t* first;     // null: dense
  const int64_t* second;    // null: λ = 1
  const void* dense;        // the type of the logits or float
  int64_t dense_stride;
  const float* weight;      // λ of each row (weight_stride 1) or of all (0); null: weight_value
  int weight_stride;
  float weight_value;
  const float* smoothing;   // one; null: smoothing_value
  float smoothing_value;
  const float* class_weight;  // null: 1
  const float* sample_weight;  // null: 1
  int64_t ignore_index;
  bool mean;                // divide loss and gradient by *denominator, or where that is null by the number of rows
  const float* denominator;
  bool count_rows;          // that number: of the rows that are not ignored, counted by every block; else `batch`
  const float* grad_output;  // of each row (grad_output_stride 1) or of all (0); null: 1
  int grad_output_stride;
  float* losses;            // (batch); null: not wanted
  void* grad;               // rows of grad_stride, the type of the logits, may be logits itself; null: not wanted
  int64_t grad_stride;
  Total total;              // losses reduced, as `mean` says
};

// What a row's labels come to: q = a e_first + b e_second + u w.
struct Mixture {
  int first, second;
  float a, b, u;
  bool valid, ignored;
};

__device__ __forceinline__ float smoothing_of(const LossArguments& arguments) {
  return arguments.smoothing != nullptr ? *arguments.smoothing : arguments.smoothing_value;
}

__device__ __forceinline__ float class_weight_of(const LossArguments& arguments, int column) {
  return arguments.class_weight != nullptr ? __ldg(arguments.class_weight + column) : 1.0f;
}

__device__ __forceinline__ Mixture mixture_of(const LossArguments& arguments, int64_t row, float s) {
  Mixture mixture{0, 0, 0.0f, 0.0f, s / static_cast<float>(arguments.columns), true, false};
  if (arguments.first == nullptr) return mixture;
  const int64_t first = arguments.first[row];
  const int64_t second = arguments.second != nullptr ? arguments.second[row] : first;
  mixture.ignored = first == arguments.ignore_index;
  mixture.valid = first >= 0 && first < arguments.columns && second >= 0 && second < arguments.columns;
  if (mixture.ignored || !mixture.valid) return mixture;  // the labels stay 0: never an offset out of bounds
  mixture.first = static_cast<int>(first);
  mixture.second = static_cast<int>(second);
  float mix = 1.0f;
  if (arguments.second != nullptr) {
    mix = arguments.weight != nullptr ? arguments.weight[row * arguments.weight_stride] : arguments.weight_value;
  }
  mixture.a = (1.0f - s) * mix * class_weight_of(arguments, mixture.first);
  mixture.b = (1.0f - s) * (1.0f - mix) * class_weight_of(arguments, mixture.second);
  return mixture;
}

// For the whole block at once: 1 over what a mean divides by.
__device__ __forceinline__ float scale_of(const LossArguments& arguments) {
  if (!arguments.mean) return 1.0f;
  if (arguments.denominator != nullptr) return 1.0f / *arguments.denominator;
  if (!arguments.count_rows) return 1.0f / static_cast<float>(arguments.batch);
  float count = 0.0f;
#pragma unroll 8
  for (int64_t row = threadIdx.x; row < arguments.batch; row += blockDim.x) {
    count += arguments.first[row] != arguments.ignore_index ? 1.0f : 0.0f;
  }
  return 1.0f / sum_block(count);
}

// What a row's gradient is multiplied by.
__device__ __forceinline__ float factor_of(const LossArguments& arguments, int64_t row, float scale) {
  float factor = scale;
  if (arguments.sample_weight != nullptr) factor *= arguments.sample_weight[row];
  if (arguments.grad_output != nullptr) factor *= arguments.grad_output[row * arguments.grad_output_stride];
  return factor;
}

__device__ __forceinline__ float finished_loss(const LossArguments& arguments, int64_t row, const Mixture& mixture,
                                               float loss) {
  if (mixture.ignored) return 0.0f;
  if (!mixture.valid) return NAN;
  return arguments.sample_weight != nullptr ? loss * arguments.sample_weight[row] : loss;
}

// coefficient * factor, where a coefficient of 0 wins over an infinite factor.
__device__ __forceinline__ float product(float coefficient, float factor) {
  return coefficient == 0.0f ? 0.0f : coefficient * factor;
}

// Σ exp(z-m) of some logits, those that equal m apart: S = 1 + rest exactly, however small the rest is.
struct Exponentials {
  float below = 0.0f, largest = 0.0f;

  __device__ __forceinline__ void add(float shifted, float exponential) {
    const bool top = shifted >= 0.0f;  // NaN is not
    below += top ? 0.0f : exponential;
    largest += top ? 1.0f : 0.0f;
  }
};

__device__ __forceinline__ float rest_of(float below, float largest) { return below + (largest - 1.0f); }

// (Q e / S - q) · factor for S = 1 + rest; `scale` is factor / S.
__device__ __forceinline__ float gradient_of(float e, float q, float mass, float rest, float scale) {
  return fmaf(-q, rest, fmaf(mass, e, -q)) * scale;
}

// ---------------------------------------------------------------------------------------------------------------------
// At most 32 columns, rows without gaps: a block copies its rows to shared memory as one run of 16-byte words, then a
// thread has a row. A word of padding after every 32 keeps the threads of a warp in different banks.

constexpr int kShortColumns = 32;
constexpr int kShortRows = 128;  // a block

__device__ __forceinline__ int padded(int index) { return index + (index >> 5); }

template <typename T>
__device__ __forceinline__ void copy_in(float* shared, const T* global, int count) {
  int at = threadIdx.x * kPerVector<T>;
  if (is_aligned(global)) {
    for (; at + kPerVector<T> <= count; at += blockDim.x * kPerVector<T>) {
      const Vector<T> packed = *reinterpret_cast<const Vector<T>*>(global + at);
#pragma unroll
      for (int e = 0; e < kPerVector<T>; ++e) shared[padded(at + e)] = to_float(packed.at[e]);
    }
    // At most one thread is left inside an incomplete vector.
    for (int e = at; e < count && e < at + kPerVector<T>; ++e) shared[padded(e)] = to_float(global[e]);
  } else {
    for (int e = threadIdx.x; e < count; e += blockDim.x) shared[padded(e)] = to_float(global[e]);
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
__global__ void __launch_bounds__(kShortRows) short_rows_kernel(const LossArguments arguments) {
  constexpr int kWords = kShortRows * kShortColumns + kShortRows * kShortColumns / 32;
  __shared__ float z[kWords];
  __shared__ float t[DENSE ? kWords : 1];
  const int columns = arguments.columns;
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * kShortRows;
  const int rows = static_cast<int>(min(static_cast<int64_t>(kShortRows), arguments.batch - begin));
  copy_in(z, static_cast<const T*>(arguments.logits) + begin * columns, rows * columns);
  if constexpr (DENSE) copy_in(t, static_cast<const D*>(arguments.dense) + begin * columns, rows * columns);
  const float scale = scale_of(arguments);
  __syncthreads();

  float loss = 0.0f;
  if (threadIdx.x < rows) {
    const int64_t row = begin + threadIdx.x;
    const int base = threadIdx.x * columns;
    const float s = smoothing_of(arguments);
    const Mixture mixture = mixture_of(arguments, row, s);
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
    loss = finished_loss(arguments, row, mixture, mass * log1pf(rest) - dot);
    if (arguments.losses != nullptr) arguments.losses[row] = loss;
    if (arguments.grad != nullptr) {
      const float factor = factor_of(arguments, row, scale) / (1.0f + rest);
      for (int c = 0; c < columns; ++c) {
        float q = mixture.u;
        if constexpr (DENSE) q += (1.0f - s) * t[padded(base + c)];
        q *= class_weight_of(arguments, c);
        if constexpr (!DENSE) {
          if (c == mixture.first) q += mixture.a;
          if (c == mixture.second) q += mixture.b;
        }
        const float g = gradient_of(exponential<T>(z[padded(base + c)] - largest), q, mass, rest, factor);
        z[padded(base + c)] = mixture.ignored ? 0.0f : mixture.valid ? g : NAN;
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

// ---------------------------------------------------------------------------------------------------------------------
// Any number of columns: a team (a block, or on sm_90 and later a cluster of blocks) goes through rows, each block with
// its slice of the columns. Where the slice fits shared memory (`resident`) it is fetched once, with every 16-byte load of
// it in flight at a time, and the reductions meet over distributed shared memory; else each pass reads it again.

template <typename T>
struct Slice {
  const T* global;
  T* shared;
  int shift;  // misalignment of `global`: element i lies at shared[shift + i]
  int count;
  bool resident;
  T fill;

  // Elements at - shift … of the slice, `fill` outside it; `at` a multiple of N.
  template <int N>
  __device__ __forceinline__ void read(int at, float (&out)[N]) const {
    if (resident) {
      read_floats(shared + at, out);
      return;
    }
    const int first = at - shift;
    if constexpr (N == kPerVector<T>) {
      if (first >= 0 && first + N <= count) {
        const Vector<T> packed = *reinterpret_cast<const Vector<T>*>(global + first);
#pragma unroll
        for (int e = 0; e < N; ++e) out[e] = to_float(packed.at[e]);
        return;
      }
    }
#pragma unroll
    for (int e = 0; e < N; ++e) {
      const int index = first + e;
      out[e] = to_float(index >= 0 && index < count ? global[index] : fill);
    }
  }

  // N elements from element `first` of the slice, wherever that lies; `fill` outside.
  template <int N>
  __device__ __forceinline__ void read_at(int first, float (&out)[N]) const {
    if (resident && first >= 0 && first + N <= count) {
      read_floats(shared + shift + first, out);
      return;
    }
#pragma unroll
    for (int e = 0; e < N; ++e) {
      const int index = first + e;
      const bool inside = index >= 0 && index < count;
      out[e] = to_float(inside ? (resident ? shared[shift + index] : global[index]) : fill);
    }
  }
};

// Elements of shared memory for a slice of `columns`: room for the shift, a multiple of the vector.
template <typename T>
__host__ __device__ constexpr int slots_for(int columns) {
  return (columns + 2 * kPerVector<T> - 2) / kPerVector<T> * kPerVector<T>;
}

template <typename T, typename D, bool DENSE>
__global__ void __launch_bounds__(256, DENSE ? 2 : 3) long_rows_kernel(const LossArguments arguments, int slice_columns, int team_size,
                                                        bool resident) {
  constexpr int N = kPerVector<T>;
  extern __shared__ __align__(16) unsigned char memory[];
  __shared__ Exchange<1> maxima;
  __shared__ Exchange<4> sums;
  const Team team{team_size, static_cast<int>(blockIdx.x) % team_size};
  const int teams = gridDim.x / team_size;
  const int index = blockIdx.x / team_size;
  const int columns = arguments.columns;
  const int lower = min(team.rank * slice_columns, columns);
  const int count = min(slice_columns, columns - lower);
  const float s = smoothing_of(arguments);
  const float scale = scale_of(arguments);
  const bool weighted = arguments.class_weight != nullptr;
  float share = 0.0f;
  team.sync();  // every block of the team runs before another writes to its memory

  for (int64_t row = index; row < arguments.batch; row += teams) {
    const T* row_logits = static_cast<const T*>(arguments.logits) + row * arguments.logits_stride;
    Slice<T> z{row_logits + lower, reinterpret_cast<T*>(memory), 0, count, resident, from_float<T>(-INFINITY)};
    z.shift = misalignment(z.global);
    const int slots = (z.shift + count + N - 1) / N * N;
    Slice<D> t{nullptr, nullptr, 0, count, resident, from_float<D>(0.0f)};
    if constexpr (DENSE) {
      t.global = static_cast<const D*>(arguments.dense) + row * arguments.dense_stride + lower;
      t.shared = reinterpret_cast<D*>(memory + slots_for<T>(slice_columns) * sizeof(T));
      t.shift = misalignment(t.global);
    }
    if (resident) {
      __syncthreads();  // nobody reads the former row any more
      copy_slice_async(z.shared, z.global, count, slots, z.fill);
      if constexpr (DENSE) {
        copy_slice_async(t.shared, t.global, count, (t.shift + count + kPerVector<D> - 1) / kPerVector<D> * kPerVector<D>,
                         t.fill);
      }
    }
    const Mixture mixture = mixture_of(arguments, row, s);
    float z_first = 0.0f, z_second = 0.0f;
    if (threadIdx.x == 0 && !DENSE) {  // before anyone writes a gradient, which may go to the same memory
      z_first = to_float(row_logits[mixture.first]);
      z_second = to_float(row_logits[mixture.second]);
    }
    if (resident) {
      wait_for_copies();
      __syncthreads();
    }

    float largest[1] = {-INFINITY};
    for (int at = threadIdx.x * N; at < slots; at += blockDim.x * N) {
      float value[N];
      z.read(at, value);
#pragma unroll
      for (int e = 0; e < N; ++e) largest[0] = fmaxf(largest[0], value[e]);
    }
    reduce_team(largest, maxima, team, Maximum{});

    // Σ exp(z-m) in its two parts; Σ q and Σ q (z-m), of the dense target or of the smoothing's share without its u.
    Exponentials exponentials;
    float total[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    for (int at = threadIdx.x * N; at < slots; at += blockDim.x * N) {
      float value[N];
      z.read(at, value);
#pragma unroll
      for (int e = 0; e < N; ++e) {
        const float shifted = value[e] - largest[0];
        exponentials.add(shifted, exponential<T>(shifted));
      }
      if constexpr (DENSE) {
        float target[N];
        t.read_at(at - z.shift, target);
#pragma unroll
        for (int e = 0; e < N; ++e) {
          const int column = at - z.shift + e;
          if (column >= 0 && column < count) {
            float q = (1.0f - s) * target[e] + mixture.u;
            if (weighted) q *= __ldg(arguments.class_weight + lower + column);
            total[2] += q;
            total[3] += product(q, value[e] - largest[0]);
          }
        }
      } else if (mixture.u != 0.0f) {
#pragma unroll
        for (int e = 0; e < N; ++e) {
          const int column = at - z.shift + e;
          if (column >= 0 && column < count) {
            const float w = weighted ? __ldg(arguments.class_weight + lower + column) : 1.0f;
            total[2] += w;
            total[3] += product(w, value[e] - largest[0]);
          }
        }
      }
    }
    total[0] = exponentials.below;
    total[1] = exponentials.largest;
    reduce_team(total, sums, team, Sum{});

    const float rest = rest_of(total[0], total[1]);
    float mass = total[2];
    if constexpr (!DENSE) {
      mass = weighted ? mixture.a + mixture.b + mixture.u * total[2] : 1.0f;
    }
    if (threadIdx.x == 0 && team.rank == 0) {
      float dot = total[3];
      if constexpr (!DENSE) {
        dot = product(mixture.u, total[3]) + product(mixture.a, z_first - largest[0]) +
              product(mixture.b, z_second - largest[0]);
      }
      const float loss = finished_loss(arguments, row, mixture, mass * log1pf(rest) - dot);
      if (arguments.losses != nullptr) arguments.losses[row] = loss;
      share += loss;
    }
    if (arguments.grad == nullptr) continue;

    const float factor = factor_of(arguments, row, scale) / (1.0f + rest);
    T* row_grad = static_cast<T*>(arguments.grad) + row * arguments.grad_stride + lower;
    const bool whole = misalignment(row_grad) == z.shift;  // vectors of the logits are vectors of the gradient
    for (int at = threadIdx.x * N; at < slots; at += blockDim.x * N) {
      const int first = at - z.shift;
      float value[N];
      z.read(at, value);
      float target[N];
      if constexpr (DENSE) t.read_at(first, target);
      Vector<T> packed;
#pragma unroll
      for (int e = 0; e < N; ++e) {
        float q = mixture.u;
        if constexpr (DENSE) q += (1.0f - s) * target[e];
        if (weighted && first + e >= 0 && first + e < count) q *= __ldg(arguments.class_weight + lower + first + e);
        const float g = gradient_of(exponential<T>(value[e] - largest[0]), q, mass, rest, factor);
        packed.at[e] = from_float<T>(mixture.ignored ? 0.0f : mixture.valid ? g : NAN);
      }
      if (whole && first >= 0 && first + N <= count) {
        __stcs(reinterpret_cast<uint4*>(row_grad + first), *reinterpret_cast<const uint4*>(&packed));
      } else {
#pragma unroll
        for (int e = 0; e < N; ++e) {
          if (first + e >= 0 && first + e < count) row_grad[first + e] = packed.at[e];
        }
      }
    }
    if constexpr (!DENSE) {
      // The labels' own entries, over what the loop wrote there.
      if (mixture.valid && !mixture.ignored) {
        __syncthreads();
        if (threadIdx.x == 0) {
          const bool same = mixture.first == mixture.second;
          const int at[2] = {mixture.first, mixture.second};
          const float label_logit[2] = {z_first, z_second};
          const float mine[2] = {same ? mixture.a + mixture.b : mixture.a, same ? mixture.a + mixture.b : mixture.b};
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            if (at[i] >= lower && at[i] < lower + count) {
              const float q = mine[i] + mixture.u * class_weight_of(arguments, at[i]);
              const float e = exponential<T>(label_logit[i] - largest[0]);
              row_grad[at[i] - lower] = from_float<T>(gradient_of(e, q, mass, rest, factor));
            }
          }
        }
      }
    }
  }
  team.sync();  // nobody leaves while another may still write to its memory
  if (arguments.total.value != nullptr && team.rank == 0) {
    add_to_total(arguments.total, share, index, teams, scale);
  }
}

// Σ sample_weight · class_weight[first] over the rows that are not ignored, either weight being optional.
static __global__ void __launch_bounds__(256) denominator_kernel(const LossArguments arguments, bool by_label, Total total) {
  float sum = 0.0f;
#pragma unroll 4
  for (int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; row < arguments.batch;
       row += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    float w = arguments.sample_weight != nullptr ? arguments.sample_weight[row] : 1.0f;
    if (arguments.first != nullptr) {
      const int64_t label = arguments.first[row];
      if (by_label && arguments.class_weight != nullptr) {
        w *= label >= 0 && label < arguments.columns ? arguments.class_weight[label] : 0.0f;
      }
      if (label == arguments.ignore_index) w = 0.0f;
    }
    sum += w;
  }
  add_to_total(total, sum_block(sum), blockIdx.x, gridDim.x, 1.0f);
}

// grad *= *grad_output, without touching grad where that is 1.
template <typename T>
__global__ void __launch_bounds__(256) rescale_kernel(T* grad, const float* grad_output, int64_t size) {
  const float scale = *grad_output;
  if (scale == 1.0f) return;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x * kPerVector<T>;
  int64_t at = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * kPerVector<T>;
  const bool aligned = is_aligned(grad);
  for (; at < size; at += stride) {
    if (aligned && at + kPerVector<T> <= size) {
      Vector<T> packed = *reinterpret_cast<const Vector<T>*>(grad + at);
#pragma unroll
      for (int e = 0; e < kPerVector<T>; ++e) packed.at[e] = from_float<T>(to_float(packed.at[e]) * scale);
      *reinterpret_cast<Vector<T>*>(grad + at) = packed;
    } else {
      for (int64_t e = at; e < size && e < at + kPerVector<T>; ++e) grad[e] = from_float<T>(to_float(grad[e]) * scale);
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Launches, on `stream` of the current device. Each returns what the runtime says of it.

struct Device {
  int processors;
  int shared_memory;  // a block may ask for
  bool clusters;
};

inline cudaError_t read_device(int ordinal, Device* device) {
  int clusters = 0;
  cudaError_t error = cudaDeviceGetAttribute(&device->processors, cudaDevAttrMultiProcessorCount, ordinal);
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&device->shared_memory, cudaDevAttrMaxSharedMemoryPerBlockOptin, ordinal);
  }
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&clusters, cudaDevAttrClusterLaunch, ordinal);
  cudaFuncAttributes code{};
  if (error == cudaSuccess) error = cudaFuncGetAttributes(&code, denominator_kernel);
  device->clusters = clusters != 0 && code.ptxVersion >= 90;  // code made for sm_80 knows no clusters wherever it runs
  return error;
}

// How a row of `columns` is shared out. The grid is as many teams as run at once, so that shares of the mean are few.
struct Plan {
  int team_size, slice_columns, threads, teams, shared_bytes;
  bool resident;
};

template <typename T, typename D, bool DENSE>
Plan plan_long_rows(const Device& device, int64_t batch, int columns) {
  constexpr int kSliceBytes = 48 * 1024;  // several blocks on a processor: one computes while another fetches
  constexpr int kSpareBytes = 4 * 1024;   // static shared memory, and what the driver keeps
  const auto bytes = [](int slice) {
    return static_cast<int64_t>(slots_for<T>(slice)) * sizeof(T) +
           (DENSE ? static_cast<int64_t>(slots_for<D>(slice)) * sizeof(D) : 0);
  };
  Plan plan{1, columns, 256, 1, 0, true};
  if (device.clusters) {
    // Smaller slices where a row is large, or where there are fewer rows than would fill the processors.
    while (plan.team_size < kMaxCluster && (bytes(plan.slice_columns) > kSliceBytes ||
                                            (plan.slice_columns > 4096 && batch * plan.team_size < device.processors))) {
      plan.team_size *= 2;
      plan.slice_columns = (columns + plan.team_size - 1) / plan.team_size;
    }
  }
  plan.resident = bytes(plan.slice_columns) <= device.shared_memory - kSpareBytes;
  plan.shared_bytes = plan.resident ? static_cast<int>(bytes(plan.slice_columns)) : 0;
  if (plan.slice_columns <= 2048) plan.threads = 128;
  // 228 KB of shared memory and 2048 threads a processor at most; a few more teams than fit do no harm.
  const int fit = plan.resident ? 228 * 1024 / (plan.shared_bytes + 2048) : 8;
  const int blocks = device.processors * (fit < 1 ? 1 : fit > 2048 / plan.threads ? 2048 / plan.threads : fit);
  const int64_t teams = blocks / plan.team_size < 1 ? 1 : blocks / plan.team_size;
  plan.teams = static_cast<int>(teams < batch ? teams : batch);
  return plan;
}

// Entries that Total::partial needs: a share for every block or team of the launch.
inline int64_t most_shares(const Device& device, int64_t batch) {
  const int64_t teams = static_cast<int64_t>(device.processors) * 16, blocks = (batch + kShortRows - 1) / kShortRows;
  return teams > blocks ? teams : blocks;
}

template <typename T, typename D, bool DENSE>
cudaError_t launch_loss(const LossArguments& arguments, const Device& device, cudaStream_t stream) {
  const bool packed = arguments.logits_stride == arguments.columns && (!DENSE || arguments.dense_stride == arguments.columns) &&
                      (arguments.grad == nullptr || arguments.grad_stride == arguments.columns);
  if (arguments.columns <= kShortColumns && packed) {
    const int64_t blocks = (arguments.batch + kShortRows - 1) / kShortRows;
    return launch(short_rows_kernel<T, D, DENSE>, blocks, kShortRows, 0, 1, stream, arguments);
  }
  const Plan plan = plan_long_rows<T, D, DENSE>(device, arguments.batch, arguments.columns);
  const auto kernel = long_rows_kernel<T, D, DENSE>;
  if (plan.shared_bytes > 44 * 1024) {  // with the static part this may pass the 48 KB that need no asking
    const cudaError_t error = cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                                   cudaFuncAttributeMaxDynamicSharedMemorySize, plan.shared_bytes);
    if (error != cudaSuccess) return error;
  }
  return launch(kernel, static_cast<int64_t>(plan.teams) * plan.team_size, plan.threads, plan.shared_bytes, plan.team_size,
                stream, arguments, plan.slice_columns, plan.team_size, plan.resident);
}

// What a mean divides by, to total.value; class weights count where `by_label`. At most most_shares shares.
inline cudaError_t launch_denominator(const LossArguments& arguments, bool by_label, const Device& device,
                                      const Total& total, cudaStream_t stream) {
  const int64_t blocks = (arguments.batch + 1023) / 1024;
  return launch(denominator_kernel, blocks < device.processors ? blocks : device.processors, 256, 0, 1, stream, arguments,
                by_label, total);
}

template <typename T>
cudaError_t launch_rescale(T* grad, const float* grad_output, int64_t size, const Device& device, cudaStream_t stream) {
  const int64_t blocks = (size / kPerVector<T> + 255) / 256, most = 8 * static_cast<int64_t>(device.processors);
  return launch(rescale_kernel<T>, blocks < 1 ? 1 : blocks < most ? blocks : most, 256, 0, 1, stream, grad, grad_output,
                size);
}

}  // namespace regfast::cuda
