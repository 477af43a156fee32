// philox on CPU tensors.
#include "../include/philox.h"

#include <ATen/Parallel.h>
#include <torch/library.h>

#include "formats.h"

namespace regfast {
namespace {

at::Tensor draw(int64_t seed, const at::Tensor& sample_, int64_t stage, const at::Tensor& restart_,
                const at::Tensor& step_, int64_t count, bool normal) {
  const at::Tensor sample = as(sample_, at::kLong), restart = as(restart_, at::kLong), step = as(step_, at::kLong);
  const int64_t rows = sample.numel();
  TORCH_CHECK_VALUE(sample.dim() == 1 && restart.sizes() == sample.sizes() && step.sizes() == sample.sizes(),
                    "sample, restart and step must be (S,), got ", sample.sizes(), ", ", restart.sizes(), " and ",
                    step.sizes());
  TORCH_CHECK_VALUE(count >= 0, "count must be at least 0, got ", count);
  const at::Tensor draws = at::empty({rows, count}, sample.options().dtype(at::kFloat));
  const int64_t *samples = pointer<int64_t>(sample), *restarts = pointer<int64_t>(restart),
                *steps = pointer<int64_t>(step);
  float* out = pointer<float>(draws);
  at::parallel_for(0, rows, grain(count), [&](int64_t from, int64_t to) {
    for (int64_t row = from; row < to; row++) {
      const auto key = philox_key(uint64_t(seed), samples[row], normal ? stage | 0x80 : stage, restarts[row], steps[row]);
      if (normal) philox_normal_row(key, out + row * count, count);
      else philox_uniform_row(key, out + row * count, count);
    }
  });
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

at::Tensor meta(int64_t, const at::Tensor& sample, int64_t, const at::Tensor&, const at::Tensor&, c10::SymInt count) {
  return at::empty_symint({sample.sym_size(0), count}, sample.options().dtype(at::kFloat));
}

}  // namespace

TORCH_LIBRARY_IMPL(regfast, CPU, m) {
  m.impl("philox_uniform", &uniform);
  m.impl("philox_normal", &normal);
}

TORCH_LIBRARY_IMPL(regfast, Meta, m) {
  m.impl("philox_uniform", &meta);
  m.impl("philox_normal", &meta);
}

}  // namespace regfast
