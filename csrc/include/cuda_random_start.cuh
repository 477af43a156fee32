// Random starts of attacks on CUDA, every row's in one launch: the draws of philox.h, element e of a row is draw e.
#pragma once

#include "cuda_perturbation_l1.cuh"
#include "cuda_philox.cuh"

namespace regfast::cuda::perturbation {

struct StartArguments {
  const float* clean;
  float* out;
  const int64_t *samples, *restarts, *steps;
  PerRow eps;
  Box box;
  uint64_t seed;
  int64_t stage;
  bool sphere;
  int64_t rows;
  int size;
};

__device__ __forceinline__ PhiloxKey key_of(const StartArguments& arguments, int64_t row, int64_t stage) {
  return philox_key(arguments.seed, arguments.samples[row], stage, arguments.restarts[row], arguments.steps[row]);
}

// t = 2 u - 1 of the entries 4 block … 4 block + 3
__device__ __forceinline__ void linf_draws(const PhiloxKey& key, int block, float (&t)[4]) {
  uint32_t words[4];
  philox(key, static_cast<uint32_t>(block), words);
#pragma unroll
  for (int e = 0; e < 4; ++e) t[e] = subtract(multiply(2.0f, uniform_of(words[e])), 1.0f);
}

__device__ __forceinline__ float started(float clean, float eps, float noise, const Box& box) {
  return clip(add(clean, multiply(eps, noise)), box.lower, box.upper);
}

// Four entries a thread: one Philox block. `sphere`: a team has the whole row and draws it twice; else a block has a chunk.
static __global__ void __launch_bounds__(512) linf_start_kernel(const StartArguments arguments, int parts) {
  __shared__ Exchange<1> pages[2];
  const Team team{arguments.sphere ? parts : 1, arguments.sphere ? static_cast<int>(blockIdx.x) % parts : 0};
  Reduction<1> reduce(pages, team);
  const int64_t row = blockIdx.x / parts;
  const float* clean = arguments.clean + row * arguments.size;
  float* out = arguments.out + row * arguments.size;
  const float eps = arguments.eps[row];
  const PhiloxKey key = key_of(arguments, row, arguments.stage);
  const int size = arguments.size;
  int begin, end;
  if (arguments.sphere) {
    share_of(size, team, begin, end);
  } else {
    begin = static_cast<int>(blockIdx.x % parts) * kChunk;
    end = min(size, begin + kChunk);
  }
  const int first = begin + 4 * static_cast<int>(threadIdx.x), stride = 4 * static_cast<int>(blockDim.x);
  float most = 0.0f, t[4];
  if (arguments.sphere) {
    float values[1] = {0.0f};
    for (int i = first; i < end; i += stride) {
      linf_draws(key, i / 4, t);
#pragma unroll
      for (int e = 0; e < 4; ++e) values[0] = i + e < end ? fmaxf(values[0], fabsf(t[e])) : values[0];
    }
    reduce(values, Maximum{});
    most = add(values[0], kTiny);
  }
  const bool whole = phase(clean) == 0 && phase(out) == 0;
  for (int i = first; i < end; i += stride) {
    linf_draws(key, i / 4, t);
    if (arguments.sphere) {
#pragma unroll
      for (int e = 0; e < 4; ++e) t[e] = divide(t[e], most);
    }
    if (whole && i + 4 <= end) {
      float c[4];
      load(clean + i, c);
#pragma unroll
      for (int e = 0; e < 4; ++e) c[e] = started(c[e], eps, t[e], arguments.box);
      store(out + i, c);
    } else {
      for (int e = 0; e < 4 && i + e < end; ++e) out[i + e] = started(clean[i + e], eps, t[e], arguments.box);
    }
  }
}

// l2 and l1: a team a row; `out` keeps the draws until their norm is known.
template <Norm NORM>
__global__ void __launch_bounds__(512) normal_start_kernel(const StartArguments arguments, int team_size) {
  __shared__ Exchange<3> pages[2];
  const Team team{team_size, static_cast<int>(blockIdx.x) % team_size};
  Reduction<3> reduce(pages, team);
  const int64_t row = blockIdx.x / team_size;
  const float* clean = arguments.clean + row * arguments.size;
  float* out = arguments.out + row * arguments.size;
  const float eps = arguments.eps[row];
  int begin, end;
  share_of(arguments.size, team, begin, end);
  const Slice slice = slice_of(begin, end, common_phase(clean + begin, out + begin, out + begin));
  const PhiloxKey key = key_of(arguments, row, arguments.stage | 0x80);
  float sums[3] = {0.0f, 0.0f, 0.0f};
  each(slice, [&](auto width, int i) {
    constexpr int N = decltype(width)::value;
    float t[N];
#pragma unroll
    for (int e = 0; e < N; ++e) {
      t[e] = normal_draw(key, i + e);
      sums[0] += t[e] * t[e];
    }
    store(out + i, t);
  });
  if constexpr (NORM == Norm::kL1) {
    l1_project(slice, out, clean, out, eps, arguments.box, true, reduce);
  } else {
    reduce(sums, Sum{});
    const float norm = add(__fsqrt_rn(sums[0]), kTiny);
    float radius = 1.0f;
    if (!arguments.sphere) {
      uint32_t words[4];
      philox(key_of(arguments, row, arguments.stage), 0, words);
      radius = uniform_of(words[0]);
    }
    each(slice, [&](auto width, int i) {
      constexpr int N = decltype(width)::value;
      float t[N], c[N];
      load(out + i, t);
      load(clean + i, c);
#pragma unroll
      for (int e = 0; e < N; ++e) {
        t[e] = started(c[e], eps, multiply(divide(t[e], norm), radius), arguments.box);
      }
      store(out + i, t);
    });
  }
}

inline cudaError_t launch_start(const StartArguments& arguments, Norm norm, const Device& device,
                                cudaStream_t stream) {
  if (norm == Norm::kL2) {
    return launch_teams<StartArguments>(normal_start_kernel<Norm::kL2>, arguments, device, stream);
  }
  if (norm == Norm::kL1) {
    return launch_teams<StartArguments>(normal_start_kernel<Norm::kL1>, arguments, device, stream);
  }
  if (!arguments.sphere) return launch_chunks<StartArguments>(linf_start_kernel, arguments, stream);
  return launch_teams<StartArguments>(linf_start_kernel, arguments, device, stream);
}

}  // namespace regfast::cuda::perturbation
