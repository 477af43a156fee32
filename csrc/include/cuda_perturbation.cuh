// Steps of attacks on CUDA, every row's in one launch; regfast/ops/perturbation.py states the formulas.
#pragma once

#include "cuda_perturbation_l1.cuh"

namespace regfast::cuda::perturbation {

template <typename T>
__global__ void __launch_bounds__(256) linf_step_kernel(const StepArguments arguments, int chunks) {
  const int64_t row = blockIdx.x / chunks;
  const int begin = static_cast<int>(blockIdx.x % chunks) * kChunk;
  const StepRow<T> step(arguments, row);
  each(step.slice(begin, min(arguments.size, begin + kChunk)), [&](auto width, int i) {
    constexpr int N = decltype(width)::value;
    float x[N], g[N], c[N], moved[N];
    load(step.point + i, x);
    load(step.gradient + i, g);
    load(step.clean + i, c);
    const auto project = [&](float y, float center) {
      y = clip(y, subtract(center, step.eps), add(center, step.eps));
      return clip(y, step.box.lower, step.box.upper);
    };
#pragma unroll
    for (int e = 0; e < N; ++e) moved[e] = project(add(x[e], multiply(step.length, sign(g[e]))), c[e]);
    if (step.previous != nullptr) {
      step.carry_on(i, x, moved);
#pragma unroll
      for (int e = 0; e < N; ++e) moved[e] = project(moved[e], c[e]);
    }
    store(step.out + i, moved);
  });
}

// clean + δ min(eps, ‖δ‖) / (‖δ‖ + tiny), in the box.
__device__ __forceinline__ float inside_l2(float delta, float clean, float norm, float eps, const Box& box) {
  const float scaled = multiply(divide(delta, add(norm, kTiny)), fminf(eps, norm));
  return clip(add(clean, scaled), box.lower, box.upper);
}

// A team a row: a pass over it for every norm, and one that writes.
template <typename T>
__global__ void __launch_bounds__(512) l2_step_kernel(const StepArguments arguments, int team_size) {
  __shared__ Exchange<1> pages[2];
  const Team team{team_size, static_cast<int>(blockIdx.x) % team_size};
  Reduction<1> reduce(pages, team);
  const StepRow<T> step(arguments, blockIdx.x / team_size);
  int begin, end;
  share_of(arguments.size, team, begin, end);
  const Slice slice = step.slice(begin, end);

  float sum[1] = {0.0f};
  each(slice, [&](auto width, int i) {
    constexpr int N = decltype(width)::value;
    float g[N];
    load(step.gradient + i, g);
#pragma unroll
    for (int e = 0; e < N; ++e) sum[0] += g[e] * g[e];
  });
  reduce(sum, Sum{});
  const float slope = add(__fsqrt_rn(sum[0]), kTiny);

  const auto stepped = [&](auto width, int i, auto& x, auto& c, auto& delta) {
    constexpr int N = decltype(width)::value;
    float g[N];
    load(step.point + i, x);
    load(step.gradient + i, g);
    load(step.clean + i, c);
#pragma unroll
    for (int e = 0; e < N; ++e) {
      delta[e] = subtract(add(x[e], multiply(step.length, divide(g[e], slope))), c[e]);
    }
  };
  sum[0] = 0.0f;
  each(slice, [&](auto width, int i) {
    constexpr int N = decltype(width)::value;
    float x[N], c[N], delta[N];
    stepped(width, i, x, c, delta);
#pragma unroll
    for (int e = 0; e < N; ++e) sum[0] += delta[e] * delta[e];
  });
  reduce(sum, Sum{});
  const float norm = __fsqrt_rn(sum[0]);

  const auto carried = [&](auto width, int i, auto& c, auto& delta) {
    constexpr int N = decltype(width)::value;
    float x[N];
    stepped(width, i, x, c, delta);
#pragma unroll
    for (int e = 0; e < N; ++e) delta[e] = inside_l2(delta[e], c[e], norm, step.eps, step.box);
    if (step.previous == nullptr) return;
    step.carry_on(i, x, delta);
#pragma unroll
    for (int e = 0; e < N; ++e) delta[e] = subtract(delta[e], c[e]);
  };
  float last = 0.0f;
  if (step.previous != nullptr) {
    sum[0] = 0.0f;
    each(slice, [&](auto width, int i) {
      constexpr int N = decltype(width)::value;
      float c[N], delta[N];
      carried(width, i, c, delta);
#pragma unroll
      for (int e = 0; e < N; ++e) sum[0] += delta[e] * delta[e];
    });
    reduce(sum, Sum{});
    last = __fsqrt_rn(sum[0]);
  }
  each(slice, [&](auto width, int i) {
    constexpr int N = decltype(width)::value;
    float c[N], moved[N];
    carried(width, i, c, moved);
    if (step.previous != nullptr) {
#pragma unroll
      for (int e = 0; e < N; ++e) moved[e] = inside_l2(moved[e], c[e], last, step.eps, step.box);
    }
    store(step.out + i, moved);
  });
}

template <typename T>
cudaError_t launch_step(const StepArguments& arguments, Norm norm, const Device& device, cudaStream_t stream) {
  if (norm == Norm::kLinf) return launch_chunks<StepArguments>(linf_step_kernel<T>, arguments, stream);
  if (norm == Norm::kL2) return launch_teams<StepArguments>(l2_step_kernel<T>, arguments, device, stream);
  return launch_teams<StepArguments>(l1_step_kernel<T>, arguments, device, stream);
}

}  // namespace regfast::cuda::perturbation
