// philox_uniform and philox_normal on CUDA tensors.
#include "../include/cuda_philox.cuh"

#include <torch/library.h>

#include "../include/cuda_launch.cuh"

namespace regfast::cuda {
namespace {

at::Tensor draw(int64_t seed, const at::Tensor& sample_, int64_t stage, const at::Tensor& restart_,
                const at::Tensor& step_, int64_t count, bool normal) {
  for (const auto* ids : {&sample_, &restart_, &step_}) {
    TORCH_CHECK_VALUE(ids->dim() == 1 && ids->sizes() == sample_.sizes() && ids->scalar_type() == at::kLong &&
                          ids->device() == sample_.device(),
                      "sample, restart and step must be (S,) int64 on one device, got ", ids->sizes(), " ",
                      ids->scalar_type(), " on ", ids->device());
  }
  TORCH_CHECK_VALUE(count >= 0 && count <= INT32_MAX / 2, "count must lie in [0, 2^30), got ", count);
  const c10::cuda::CUDAGuard guard(sample_.device());
  const at::Tensor sample = sample_.contiguous(), restart = restart_.contiguous(), step = step_.contiguous();
  const at::Tensor draws = at::empty({sample.size(0), count}, sample.options().dtype(at::kFloat));
  if (draws.numel() == 0) return draws;
  const DrawArguments arguments{draws.data_ptr<float>(), sample.const_data_ptr<int64_t>(),
                                restart.const_data_ptr<int64_t>(), step.const_data_ptr<int64_t>(),
                                static_cast<uint64_t>(seed), normal ? stage | 0x80 : stage, sample.size(0),
                                static_cast<int>(count)};
  C10_CUDA_CHECK(launch_draws(arguments, normal, current_stream()));
  return draws;
}

at::Tensor uniform(int64_t seed, const at::Tensor& sample, int64_t stage, const at::Tensor& restart,
                   const at::Tensor& step, int64_t count) {
  return draw(seed, sample, stage, restart, step, count, false);
}

at::Tensor normal(int64_t seed, const at::Tensor& sample, int64_t stage, const at::Tensor& restart,
                  const at::Tensor& step, int64_t count) {
  return draw(seed, sample, stage, restart, step, count, true);
}

}  // namespace

TORCH_LIBRARY_IMPL(regfast, CUDA, m) {
  m.impl("philox_uniform", &uniform);
  m.impl("philox_normal", &normal);
}

}  // namespace regfast::cuda
