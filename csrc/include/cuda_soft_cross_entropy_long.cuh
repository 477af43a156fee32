// Soft-label cross-entropy on CUDA for any number of classes.
//
// A team (a block, or on sm_90 and later a cluster of blocks) goes through rows, each block with its slice of the
// columns. Where the slice fits shared memory (`resident`) it is fetched once, with every 16-byte load of it in flight at
// a time, and the reductions meet over distributed shared memory; else each pass reads it again.
#pragma once

#include "cuda_soft_cross_entropy_row.cuh"

namespace regfast::cuda {

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

// Blocks of 256 threads that a processor's registers hold.
template <bool DENSE>
constexpr int kLongBlocks = DENSE ? 2 : 3;

template <typename T, typename D, bool DENSE>
__global__ void __launch_bounds__(256, kLongBlocks<DENSE>)
    long_rows_kernel(const LossArguments arguments, int slice_columns, int team_size, bool resident) {
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
      if constexpr (DENSE) __syncthreads();  // nobody reads the former row's target any more
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
    // A thread's vectors of the logits are those that it fetched; the target's may be another's, after the reduction.
    if (resident) wait_for_copies();

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
    const float log_sum = log1pf(rest);
    const Penalty penalty = penalty_of(arguments, largest[0] + log_sum);
    if (threadIdx.x == 0 && team.rank == 0) {
      float dot = total[3];
      if constexpr (!DENSE) {
        dot = product(mixture.u, total[3]) + product(mixture.a, z_first - largest[0]) +
              product(mixture.b, z_second - largest[0]);
      }
      const float loss = finished_loss(arguments, row, mixture, mass * log_sum - dot + penalty.loss);
      if (arguments.losses != nullptr) arguments.losses[row] = loss;
      share += loss;
    }
    if (arguments.grad == nullptr) continue;

    const float factor = factor_of(arguments, row, scale) / (1.0f + rest), pull = mass + penalty.pull;
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
        const float g = gradient_of(exponential<T>(value[e] - largest[0]), q, pull, rest, factor);
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
              row_grad[at[i] - lower] = from_float<T>(gradient_of(e, q, pull, rest, factor));
            }
          }
        }
      }
    }
  }
  // Nobody writes to another's memory after the last reduction: a block may leave.
  if (arguments.total.value != nullptr && team.rank == 0) {
    add_to_total(arguments.total, share, index, teams, scale);
  }
}

// How a row of `columns` is shared out. The grid is as many teams as run at once: none waits for a place, and shares of the
// mean are few.
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
  const int by_registers = kLongBlocks<DENSE> * (256 / plan.threads);
  const int by_memory = device.shared_memory / (plan.shared_bytes + 2048);  // with the static part and the driver's
  const int fit = by_memory < 1 ? 1 : by_memory < by_registers ? by_memory : by_registers;
  const int blocks = device.processors * fit;
  const int64_t teams = blocks / plan.team_size < 1 ? 1 : blocks / plan.team_size;
  plan.teams = static_cast<int>(teams < batch ? teams : batch);
  return plan;
}

template <typename T, typename D, bool DENSE>
cudaError_t launch_long_rows(const LossArguments& arguments, const Device& device, cudaStream_t stream) {
  const Plan plan = plan_long_rows<T, D, DENSE>(device, arguments.batch, arguments.columns);
  const auto kernel = long_rows_kernel<T, D, DENSE>;
  if (plan.shared_bytes > 44 * 1024) {  // with the static part this may pass the 48 KB that need no asking
    const cudaError_t error = cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                                   cudaFuncAttributeMaxDynamicSharedMemorySize, plan.shared_bytes);
    if (error != cudaSuccess) return error;
  }
  return launch(kernel, static_cast<int64_t>(plan.teams) * plan.team_size, plan.threads, plan.shared_bytes,
                plan.team_size, stream, arguments, plan.slice_columns, plan.team_size, plan.resident);
}

}  // namespace regfast::cuda
