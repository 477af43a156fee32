// The l1 ball on CUDA: projection to it and the box, and the step of APGD, each in one launch with a team a row.
#pragma once

#include "cuda_perturbation_step.cuh"

namespace regfast::cuda::perturbation {

struct ProjectionArguments {
  const float *clean, *delta;
  float* out;
  PerRow eps;
  Box box;
  int64_t rows;
  int size;
};

__device__ __forceinline__ float room_of(float delta, float clean, const Box& box) {
  return fmaxf(delta > 0.0f ? subtract(box.upper, clean) : subtract(clean, box.lower), 0.0f);
}

// sign(δ) clip(|δ| - μ, 0, room)
__device__ __forceinline__ float shrunk(float delta, float clean, float mu, const Box& box) {
  return multiply(sign(delta), clip(subtract(fabsf(delta), mu), 0.0f, room_of(delta, clean, box)));
}

// The least μ ≥ 0 with Σ clip(|δ| - μ, 0, room) ≤ eps. The sum falls in straight pieces: Newton's step is exact once μ is in
// the right one, and halving the bracket where the step leaves it bounds the number of passes.
__device__ __forceinline__ float l1_shift(const Slice& slice, const float* delta, const float* clean, float eps,
                                          const Box& box, Reduction<3>& reduce) {
  float values[3] = {0.0f, 0.0f, 0.0f};
  each(slice, [&](auto width, int i) {
    constexpr int N = decltype(width)::value;
    float d[N];
    load(delta + i, d);
#pragma unroll
    for (int e = 0; e < N; ++e) values[0] = fmaxf(values[0], fabsf(d[e]));
  });
  reduce(values, Maximum{});
  float low = 0.0f, high = values[0], mu = 0.0f;
  for (int pass = 0; pass < 100; ++pass) {
    float sums[3] = {0.0f, 0.0f, 0.0f};  // of the entries, and how many of them fall with μ
    each(slice, [&](auto width, int i) {
      constexpr int N = decltype(width)::value;
      float d[N], c[N];
      load(delta + i, d);
      load(clean + i, c);
#pragma unroll
      for (int e = 0; e < N; ++e) {
        const float left = subtract(fabsf(d[e]), mu), room = room_of(d[e], c[e], box);
        sums[0] += clip(left, 0.0f, room);
        sums[1] += left > 0.0f && left <= room ? 1.0f : 0.0f;
      }
    });
    reduce(sums, Sum{});
    const float over = sums[0] - eps;
    if (pass == 0 && over <= 0.0f) return 0.0f;
    (over > 0.0f ? low : high) = mu;
    if (fabsf(over) <= 1e-7f * eps || !(low < nextafterf(high, 0.0f))) break;
    mu = sums[1] > 0.0f ? mu + over / sums[1] : high;
    if (!(mu > low && mu < high)) mu = 0.5f * (low + high);
  }
  return mu;
}

// out = the projection of `delta` (which may be out) to the l1 ball and the box around clean; with `centered`, clean + it.
__device__ __forceinline__ void l1_project(const Slice& slice, const float* delta, const float* clean, float* out,
                                           float eps, const Box& box, bool centered, Reduction<3>& reduce) {
  const float mu = l1_shift(slice, delta, clean, eps, box, reduce);
  each(slice, [&](auto width, int i) {
    constexpr int N = decltype(width)::value;
    float d[N], c[N];
    load(delta + i, d);
    load(clean + i, c);
#pragma unroll
    for (int e = 0; e < N; ++e) {
      d[e] = shrunk(d[e], c[e], mu, box);
      if (centered) d[e] = add(c[e], d[e]);
    }
    store(out + i, d);
  });
}

static __global__ void __launch_bounds__(512, 1) l1_projection_kernel(const ProjectionArguments arguments, int team_size) {
  __shared__ Exchange<3> pages[2];
  const Team team{team_size, static_cast<int>(blockIdx.x) % team_size};
  Reduction<3> reduce(pages, team);
  const int64_t row = blockIdx.x / team_size;
  const float* clean = arguments.clean + row * arguments.size;
  const float* delta = arguments.delta + row * arguments.size;
  float* out = arguments.out + row * arguments.size;
  int begin, end;
  share_of(arguments.size, team, begin, end);
  const Slice slice = slice_of(begin, end, common_phase(clean + begin, delta + begin, out + begin));
  l1_project(slice, delta, clean, out, arguments.eps[row], arguments.box, false, reduce);
}

// Bits of |g|: they order as the numbers do, NaN above all.
__device__ __forceinline__ unsigned magnitude_bits(float g) { return __float_as_uint(g) & 0x7fffffffu; }

// Bits of the largest magnitude that at least `least` entries of the row reach: two bits a pass.
template <typename T>
__device__ __forceinline__ unsigned reached_by(const Slice& slice, const T* gradient, float least,
                                               Reduction<3>& reduce) {
  unsigned reached = 0;
  for (int shift = 30; shift >= 0; shift -= 2) {
    float counts[3] = {0.0f, 0.0f, 0.0f};  // exact up to 2^24 entries a thread, and nearly so beyond
    each(slice, [&](auto width, int i) {
      constexpr int N = decltype(width)::value;
      float g[N];
      load(gradient + i, g);
#pragma unroll
      for (int e = 0; e < N; ++e) {
#pragma unroll
        for (unsigned n = 0; n < 3; ++n) counts[n] += magnitude_bits(g[e]) >= (reached | (n + 1) << shift) ? 1.0f : 0.0f;
      }
    });
    reduce(counts, Sum{});
    const unsigned steps = counts[2] >= least ? 3 : counts[1] >= least ? 2 : counts[0] >= least ? 1 : 0;
    reached |= steps << shift;
  }
  return reached;
}

template <typename T>
__global__ void __launch_bounds__(512, 1) l1_step_kernel(const StepArguments arguments, int team_size) {
  __shared__ Exchange<3> pages[2];
  const Team team{team_size, static_cast<int>(blockIdx.x) % team_size};
  Reduction<3> reduce(pages, team);
  const int64_t row = blockIdx.x / team_size;
  const StepRow<T> step(arguments, row);
  int begin, end;
  share_of(arguments.size, team, begin, end);
  const Slice slice = step.slice(begin, end);

  const float share = multiply(subtract(1.0f, arguments.sparsity[row]), static_cast<float>(arguments.size));
  const int rank = min(arguments.size - 1, static_cast<int>(fmaxf(share, 0.0f)));
  const unsigned threshold = reached_by(slice, step.gradient, static_cast<float>(arguments.size - rank), reduce);
  const auto way = [&](float g) { return magnitude_bits(g) >= threshold ? sign(g) : 0.0f; };
  float counts[3] = {0.0f, 0.0f, 0.0f};
  each(slice, [&](auto width, int i) {
    constexpr int N = decltype(width)::value;
    float g[N];
    load(step.gradient + i, g);
#pragma unroll
    for (int e = 0; e < N; ++e) counts[0] += fabsf(way(g[e]));
  });
  reduce(counts, Sum{});
  const float number = add(counts[0], 1e-10f);

  each(slice, [&](auto width, int i) {
    constexpr int N = decltype(width)::value;
    float x[N], g[N], c[N];
    load(step.point + i, x);
    load(step.gradient + i, g);
    load(step.clean + i, c);
#pragma unroll
    for (int e = 0; e < N; ++e) {
      x[e] = subtract(add(x[e], multiply(step.length, divide(way(g[e]), number))), c[e]);
    }
    store(step.out + i, x);
  });
  l1_project(slice, step.out, step.clean, step.out, step.eps, step.box, true, reduce);
  if (step.previous == nullptr) return;
  each(slice, [&](auto width, int i) {
    constexpr int N = decltype(width)::value;
    float x[N], c[N], moved[N];
    load(step.point + i, x);
    load(step.clean + i, c);
    load(step.out + i, moved);
    step.carry_on(i, x, moved);
#pragma unroll
    for (int e = 0; e < N; ++e) moved[e] = subtract(moved[e], c[e]);
    store(step.out + i, moved);
  });
  l1_project(slice, step.out, step.clean, step.out, step.eps, step.box, true, reduce);
}

inline cudaError_t launch_l1_projection(const ProjectionArguments& arguments, const Device& device,
                                        cudaStream_t stream) {
  return launch_teams<ProjectionArguments>(l1_projection_kernel, arguments, device, stream);
}

}  // namespace regfast::cuda::perturbation
