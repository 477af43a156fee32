// Soft-label cross-entropy on CUDA for any number of classes.
//
// A row belongs to a group of 16 or 32 threads of a warp, or to a team (a block, or on sm_90 and later a cluster of
// blocks), each block with its slice of the columns. A group fetches its next row while it computes one. A team's slice
// is fetched once where it fits shared memory (`resident`), with every 16-byte load of it in flight at a time, and the
// reductions meet over distributed shared memory; else it is read twice, its sums made in the first reading.
#pragma once

#include <cfloat>

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

  __device__ __forceinline__ Slice(const T* global, void* shared, int count, bool resident, float fill)
      : global(global), shared(static_cast<T*>(shared)), shift(misalignment(global)), count(count), resident(resident),
        fill(from_float<T>(fill)) {}

  // Elements of whole vectors around the slice.
  __device__ __forceinline__ int slots() const {
    constexpr int N = kPerVector<T>;
    return (shift + count + N - 1) / N * N;
  }

  __device__ __forceinline__ void fetch(int thread, int threads) const {
    copy_slice_async(shared, global, count, slots(), fill, thread, threads);
  }

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

// What a thread adds up of a row, relative to `from`: Σ exp(z - from) in its two parts; Σ q and Σ q (z - from), of the
// dense target or of the smoothing's share without its u.
struct RowSums {
  float from;
  Exponentials exponentials;
  float mass = 0.0f, dot = 0.0f;

  // The same relative to another logit, at least as large.
  template <typename T>
  __device__ __forceinline__ void move(float to) {
    exponentials.below = (exponentials.below + exponentials.largest) * exponential<T>(from - to);
    exponentials.largest = 0.0f;
    dot += product(mass, from - to);
    from = to;
  }

  __device__ __forceinline__ void add(float q, float value) {
    mass += q;
    dot += product(q, value - from);
  }
};

template <typename T, typename D, bool DENSE, int GROUP>
__global__ void __launch_bounds__(GROUP > 0 ? kGroupThreads : 256,
                                  GROUP > 0 ? group_blocks(GROUP, sizeof(T), DENSE ? sizeof(D) : 0) : long_blocks(DENSE))
    long_rows_kernel(const LossArguments arguments, int slice_columns, int team_size, bool is_resident) {
  constexpr int N = kPerVector<T>;
  constexpr bool kGroups = GROUP > 0;
  extern __shared__ __align__(16) unsigned char memory[];
  __shared__ Exchange<1> maxima;
  __shared__ Exchange<4> sums;
  if (is_done(arguments)) return;
  const bool resident = kGroups || is_resident;
  const Team team{kGroups ? 1 : team_size, kGroups ? 0 : static_cast<int>(blockIdx.x) % team_size};
  const int thread = kGroups ? threadIdx.x % GROUP : threadIdx.x, threads = kGroups ? GROUP : blockDim.x;
  const int groups = kGroups ? kGroupThreads / GROUP : 1, group = kGroups ? threadIdx.x / GROUP : 0;
  const unsigned lanes = kGroups && GROUP < 32 ? ((1u << (GROUP & 31)) - 1) << (threadIdx.x & 31 & ~(GROUP - 1)) : ~0u;
  const int teams = kGroups ? gridDim.x * groups : gridDim.x / team.size;
  const int index = kGroups ? blockIdx.x * groups + group : blockIdx.x / team.size;
  const int columns = arguments.columns;
  const int lower = min(team.rank * slice_columns, columns);
  const int count = min(slice_columns, columns - lower);
  const float s = smoothing_of(arguments);
  const float scale = scale_of(arguments);
  const bool weighted = arguments.class_weight != nullptr;
  float share = 0.0f;

  const int logit_bytes = slots_for(slice_columns, sizeof(T)) * static_cast<int>(sizeof(T));
  const int row_bytes = logit_bytes + (DENSE ? slots_for(slice_columns, sizeof(D)) * static_cast<int>(sizeof(D)) : 0);
  const auto logits_of = [&](int64_t row, int buffer) {
    const T* global = static_cast<const T*>(arguments.logits) + row * arguments.logits_stride + lower;
    return Slice<T>(global, memory + (buffer * groups + group) * row_bytes, count, resident, -INFINITY);
  };
  const auto dense_of = [&](int64_t row, int buffer) {
    const D* global = static_cast<const D*>(arguments.dense) + row * arguments.dense_stride + lower;
    return Slice<D>(global, memory + (buffer * groups + group) * row_bytes + logit_bytes, count, resident, 0.0f);
  };
  const auto grad_of = [&](int64_t row) {
    return static_cast<T*>(arguments.grad) + row * arguments.grad_stride + lower;
  };
  // Labels of a row to come; rows that are ignored, or are none, are not fetched.
  const auto look_at = [&](int64_t row) {
    return !DENSE && row < arguments.batch ? labels_of(arguments, row) : Labels{0, 0};
  };
  const auto counts = [&](int64_t row, const Labels& labels) {
    return row < arguments.batch && (DENSE || !is_ignored(labels));
  };
  const auto fetch = [&](int64_t row, const Labels& labels, int buffer) {
    if (resident && counts(row, labels)) {
      logits_of(row, buffer).fetch(thread, threads);
      if constexpr (DENSE) dense_of(row, buffer).fetch(thread, threads);
    }
    __pipeline_commit();
  };
  const auto meet = [&] {
    if constexpr (kGroups) __syncwarp(lanes);
    else __syncthreads();
  };
  team.sync();  // every block of the team runs before another writes to its memory

  // A group looks two rows ahead, as it fetches one row ahead.
  Labels labels = look_at(index), next_labels{};
  if constexpr (kGroups) next_labels = look_at(static_cast<int64_t>(index) + teams);
  int buffer = 0;
  if constexpr (kGroups) fetch(index, labels, buffer);
  for (int64_t row = index; row < arguments.batch; row += teams) {
    const int64_t next = row + teams;
    const Labels its_labels = labels;
    const int its_buffer = buffer;
    if constexpr (DENSE || kGroups) meet();  // nobody reads another's part of a former row any more
    if constexpr (kGroups) {
      labels = next_labels;
      next_labels = look_at(next + teams);
      buffer ^= 1;
      fetch(next, labels, buffer);
    } else {
      labels = look_at(next);
      fetch(row, its_labels, buffer);
    }
    if (!counts(row, its_labels)) {
      if (thread == 0 && team.rank == 0 && arguments.losses != nullptr) arguments.losses[row] = 0.0f;
      if (arguments.grad != nullptr) write_zeros(grad_of(row), count, thread, threads);
      continue;
    }
    const Mixture mixture = mixture_of(arguments, row, its_labels, s);
    const Slice<T> z = logits_of(row, its_buffer);
    const int slots = z.slots();
    float z_first = 0.0f, z_second = 0.0f;
    if (!kGroups && !DENSE && thread == 0) {  // before anyone writes a gradient, which may go to the same memory
      z_first = to_float(z.global[mixture.first - lower]);
      z_second = to_float(z.global[mixture.second - lower]);
    }
    // A thread's vectors of the logits are those that it fetched; all else is another's.
    wait_for_copies(kGroups ? 1 : 0);
    if constexpr (kGroups) {
      meet();
      if (!DENSE && thread == 0) {
        z_first = to_float(z.shared[z.shift + mixture.first]);
        z_second = to_float(z.shared[z.shift + mixture.second]);
      }
    }

    float largest[1] = {-INFINITY};
    RowSums mine{-FLT_MAX};
    const auto add_vector = [&](int at, const float (&value)[N]) {
#pragma unroll
      for (int e = 0; e < N; ++e) {
        const float shifted = value[e] - mine.from;
        mine.exponentials.add(shifted, exponential<T>(shifted));
      }
      const int first = at - z.shift;
      if constexpr (DENSE) {
        float target[N];
        dense_of(row, its_buffer).read_at(first, target);
#pragma unroll
        for (int e = 0; e < N; ++e) {
          if (first + e >= 0 && first + e < count) {
            float q = (1.0f - s) * target[e] + mixture.u;
            if (weighted) q *= __ldg(arguments.class_weight + lower + first + e);
            mine.add(q, value[e]);
          }
        }
      } else if (mixture.u != 0.0f) {
#pragma unroll
        for (int e = 0; e < N; ++e) {
          if (first + e >= 0 && first + e < count) {
            mine.add(weighted ? __ldg(arguments.class_weight + lower + first + e) : 1.0f, value[e]);
          }
        }
      }
    };
    for (int at = thread * N; at < slots; at += threads * N) {
      float value[N];
      z.read(at, value);
#pragma unroll
      for (int e = 0; e < N; ++e) largest[0] = fmaxf(largest[0], value[e]);
      if (!resident) {
        if (largest[0] > mine.from) mine.template move<T>(largest[0]);
        add_vector(at, value);
      }
    }
    if constexpr (kGroups) largest[0] = reduce_warp<GROUP>(largest[0], Maximum{}, lanes);
    else reduce_team(largest, maxima, team, Maximum{});
    if (resident) {
      mine.from = largest[0];
      for (int at = thread * N; at < slots; at += threads * N) {
        float value[N];
        z.read(at, value);
        add_vector(at, value);
      }
    } else {
      if (largest[0] != mine.from) mine.template move<T>(largest[0]);
    }
    float total[4] = {mine.exponentials.below, mine.exponentials.largest, mine.mass, mine.dot};
    if constexpr (kGroups) {
#pragma unroll
      for (int n = 0; n < 4; ++n) total[n] = reduce_warp<GROUP>(total[n], Sum{}, lanes);
    } else {
      reduce_team(total, sums, team, Sum{});
    }

    const float rest = rest_of(total[0], total[1]);
    float mass = total[2];
    if constexpr (!DENSE) {
      mass = weighted ? mixture.a + mixture.b + mixture.u * total[2] : 1.0f;
    }
    const float log_sum = log1pf(rest);
    const Penalty penalty = penalty_of(arguments, largest[0] + log_sum);
    if (thread == 0 && team.rank == 0) {
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
    T* const row_grad = grad_of(row);
    const bool whole = misalignment(row_grad) == z.shift;  // vectors of the logits are vectors of the gradient
    for (int at = thread * N; at < slots; at += threads * N) {
      const int first = at - z.shift;
      float value[N];
      z.read(at, value);
      float target[N];
      if constexpr (DENSE) dense_of(row, its_buffer).read_at(first, target);
      Vector<T> packed;
#pragma unroll
      for (int e = 0; e < N; ++e) {
        float q = mixture.u;
        if constexpr (DENSE) q += (1.0f - s) * target[e];
        if (weighted && first + e >= 0 && first + e < count) q *= __ldg(arguments.class_weight + lower + first + e);
        const float g = gradient_of(exponential<T>(value[e] - largest[0]), q, pull, rest, factor);
        packed.at[e] = from_float<T>(mixture.valid ? g : NAN);
      }
      write_vector(row_grad, first, count, whole, packed);
    }
    if constexpr (!DENSE) {
      // The labels' own entries, over what the loop wrote there.
      if (mixture.valid) {
        meet();
        if (thread == 0) {
          const bool same = mixture.first == mixture.second;
          const int at[2] = {mixture.first, mixture.second};
          const float label_logit[2] = {z_first, z_second};
          const float q_label[2] = {same ? mixture.a + mixture.b : mixture.a, same ? mixture.a + mixture.b : mixture.b};
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            if (at[i] >= lower && at[i] < lower + count) {
              const float q = q_label[i] + mixture.u * class_weight_of(arguments, at[i]);
              const float e = exponential<T>(label_logit[i] - largest[0]);
              row_grad[at[i] - lower] = from_float<T>(gradient_of(e, q, pull, rest, factor));
            }
          }
        }
      }
    }
  }
  wait_for_copies(0);  // of none
  // Nobody writes to another's memory after the last reduction: a block may leave.
  if (arguments.total.value == nullptr) return;
  if constexpr (kGroups) {
    add_to_total(arguments.total, sum_block(share), blockIdx.x, gridDim.x, scale);
  } else if (team.rank == 0) {
    add_to_total(arguments.total, share, index, teams, scale);
  }
}

template <typename T, typename D, bool DENSE>
cudaError_t launch_long_rows(const LossArguments& arguments, const Device& device, cudaStream_t stream) {
  LossPlan plan = plan_loss(device, arguments.batch, arguments.columns, sizeof(T), DENSE ? sizeof(D) : 0);
  const auto kernel = plan.group == 16   ? long_rows_kernel<T, D, DENSE, 16>
                      : plan.group == 32 ? long_rows_kernel<T, D, DENSE, 32>
                                         : long_rows_kernel<T, D, DENSE, 0>;
  if (plan.shared_bytes > 44 * 1024) {  // with the static part this may pass the 48 KB that need no asking
    const cudaError_t error = cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                                   cudaFuncAttributeMaxDynamicSharedMemorySize, plan.shared_bytes);
    if (error != cudaSuccess) return error;
  }
  if (plan.team_size > 1) {
    int clusters = 1;
    const cudaError_t error =
        active_clusters(kernel, device, plan.threads, plan.shared_bytes, plan.team_size, &clusters);
    if (error != cudaSuccess) return error;
    plan.blocks = plan.team_size * static_cast<int>(arguments.batch < clusters ? arguments.batch : clusters);
  }
  return launch(kernel, plan.blocks, plan.threads, plan.shared_bytes, plan.team_size, stream, arguments,
                plan.slice_columns, plan.team_size, plan.resident);
}

}  // namespace regfast::cuda
