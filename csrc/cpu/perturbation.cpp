// perturb_step, random_start and l1_box_projection on CPU tensors.
#include "../include/perturbation.h"

#include <ATen/Parallel.h>
#include <torch/library.h>

#include <memory>

#include "../target.h"
#include "formats.h"

namespace regfast {
namespace {

PerturbationNorm norm_of(int64_t norm) {
  TORCH_CHECK_VALUE(norm >= 0 && norm <= 2, "norm must be 0 (linf), 1 (l2) or 2 (l1), got ", norm);
  return PerturbationNorm(norm);
}

// A number, or one a sample.
struct PerSample {
  at::Tensor tensor;
  const float* values = nullptr;
  float value;

  PerSample(const MaybeTensor& given, double number, int64_t rows, const char* name) : value(float(number)) {
    if (!given.has_value()) return;
    TORCH_CHECK_VALUE(given->numel() == 1 || (given->dim() == 1 && given->size(0) == rows), name,
                      " must be a number or (B,) = (", rows, ",), got ", given->sizes());
    tensor = as(*given, at::kFloat);
    if (given->dim() == 0 || given->numel() != rows) value = tensor.item<float>();
    else values = pointer<float>(tensor);
  }
  float operator[](int64_t row) const { return values == nullptr ? value : values[row]; }
};

at::Tensor rows_of(const at::Tensor& tensor, const at::Tensor& like, const char* name) {
  TORCH_CHECK_VALUE(tensor.sizes() == like.sizes(), name, " must have the shape ", like.sizes(), ", got ",
                    tensor.sizes());
  return as(tensor, at::kFloat);
}

const at::Tensor& float_points(const at::Tensor& tensor, const char* name) {
  TORCH_CHECK_VALUE(tensor.dim() >= 1, name, " must be (B, ...), got a scalar");
  TORCH_CHECK_TYPE(tensor.scalar_type() == at::kFloat, name, " must be float32, got ", tensor.dtype());
  return tensor;
}

at::Tensor perturb_step(const at::Tensor& point_, const at::Tensor& gradient_, const at::Tensor& clean_,
                        const MaybeTensor& eps_, double eps_value, const MaybeTensor& step_, double step_value,
                        int64_t norm_, const MaybeTensor& previous_, const MaybeTensor& momentum_,
                        double momentum_value, const MaybeTensor& sparsity_, double sparsity_value, double lower,
                        double upper) {
  const auto norm = norm_of(norm_);
  const at::Tensor point = rows_of(float_points(point_, "point"), point_, "point");
  const at::Tensor gradient = rows_of(gradient_, point_, "gradient"), clean = rows_of(clean_, point_, "clean");
  const at::Tensor previous = previous_.has_value() ? rows_of(*previous_, point_, "previous") : at::Tensor();
  const at::Tensor out = at::empty_like(point);
  const int64_t rows = point.size(0), n = rows == 0 ? 0 : point.numel() / rows;
  const PerSample eps(eps_, eps_value, rows, "eps"), step(step_, step_value, rows, "step"),
      momentum(momentum_, momentum_value, rows, "momentum"), sparsity(sparsity_, sparsity_value, rows, "sparsity");
  const auto at = [n](const at::Tensor& tensor, int64_t row) -> float* {
    return tensor.defined() ? pointer<float>(tensor) + row * n : nullptr;
  };
  at::parallel_for(0, rows, grain(n), [&](int64_t from, int64_t to) {
    const std::unique_ptr<float[]> scratch(norm == PerturbationNorm::kL1 ? new float[n] : nullptr);
    for (int64_t row = from; row < to; row++) {
      perturb_step_row({{norm, eps[row], float(lower), float(upper)}, step[row], momentum[row], sparsity[row], n,
                        at(point, row), at(gradient, row), at(clean, row), at(previous, row), at(out, row),
                        scratch.get()});
    }
  });
  return out;
}

at::Tensor l1_box_projection(const at::Tensor& clean_, const at::Tensor& delta_, const MaybeTensor& eps_,
                             double eps_value, double lower, double upper) {
  const at::Tensor clean = rows_of(float_points(clean_, "clean"), clean_, "clean"),
                   delta = rows_of(delta_, clean_, "delta");
  const at::Tensor out = at::empty_like(clean);
  const int64_t rows = clean.size(0), n = rows == 0 ? 0 : clean.numel() / rows;
  const PerSample eps(eps_, eps_value, rows, "eps");
  at::parallel_for(0, rows, grain(n), [&](int64_t from, int64_t to) {
    for (int64_t row = from; row < to; row++) {
      l1_box_projection_row({PerturbationNorm::kL1, eps[row], float(lower), float(upper)},
                            pointer<float>(clean) + row * n, pointer<float>(delta) + row * n,
                            pointer<float>(out) + row * n, n);
    }
  });
  return out;
}

at::Tensor random_start(const at::Tensor& clean_, const MaybeTensor& eps_, double eps_value, int64_t norm_,
                        int64_t seed, const at::Tensor& sample_, int64_t stage, const at::Tensor& restart_,
                        const at::Tensor& step_, bool sphere, double lower, double upper) {
  const auto norm = norm_of(norm_);
  const at::Tensor clean = rows_of(float_points(clean_, "clean"), clean_, "clean");
  const int64_t rows = clean.size(0), n = rows == 0 ? 0 : clean.numel() / rows;
  const at::Tensor sample = as(sample_, at::kLong), restart = as(restart_, at::kLong), step = as(step_, at::kLong);
  for (const auto* ids : {&sample, &restart, &step}) {
    TORCH_CHECK_VALUE(ids->dim() == 1 && ids->size(0) == rows, "sample, restart and step must be (B,) = (", rows,
                      ",), got ", ids->sizes());
  }
  const at::Tensor out = at::empty_like(clean);
  const PerSample eps(eps_, eps_value, rows, "eps");
  const int64_t *samples = pointer<int64_t>(sample), *restarts = pointer<int64_t>(restart),
                *steps = pointer<int64_t>(step);
  at::parallel_for(0, rows, grain(n), [&](int64_t from, int64_t to) {
    for (int64_t row = from; row < to; row++) {
      const auto key = [&](int64_t place) {
        return philox_key(uint64_t(seed), samples[row], place, restarts[row], steps[row]);
      };
      random_start_row({{norm, eps[row], float(lower), float(upper)}, sphere, n, key(stage), key(stage | 0x80),
                        pointer<float>(clean) + row * n, pointer<float>(out) + row * n});
    }
  });
  return out;
}

at::Tensor like(const at::Tensor& tensor) { return at::empty_symint(tensor.sym_sizes(), tensor.options()); }

at::Tensor meta_step(const at::Tensor& point, const at::Tensor&, const at::Tensor&, const MaybeTensor&, double,
                     const MaybeTensor&, double, int64_t, const MaybeTensor&, const MaybeTensor&, double,
                     const MaybeTensor&, double, double, double) {
  return like(point);
}
at::Tensor meta_projection(const at::Tensor& clean, const at::Tensor&, const MaybeTensor&, double, double, double) {
  return like(clean);
}
at::Tensor meta_start(const at::Tensor& clean, const MaybeTensor&, double, int64_t, int64_t, const at::Tensor&, int64_t,
                      const at::Tensor&, const at::Tensor&, bool, double, double) {
  return like(clean);
}

}  // namespace

TORCH_LIBRARY_IMPL(regfast, CPU, m) {
  m.impl("perturb_step", &perturb_step);
  m.impl("l1_box_projection", &l1_box_projection);
  m.impl("random_start", &random_start);
}

TORCH_LIBRARY_IMPL(regfast, Meta, m) {
  m.impl("perturb_step", &meta_step);
  m.impl("l1_box_projection", &meta_projection);
  m.impl("random_start", &meta_start);
}

}  // namespace regfast
