// boundary_step on CPU tensors.
#include "../include/boundary.h"

#include <ATen/Parallel.h>
#include <torch/library.h>

#include "../target.h"
#include "formats.h"

namespace regfast {
namespace {

REGFAST_CLONES void linf_row(const BoundaryStep& call) { boundary::step<PerturbationNorm::kLinf>(call); }
REGFAST_CLONES void l2_row(const BoundaryStep& call) { boundary::step<PerturbationNorm::kL2>(call); }
REGFAST_CLONES void l1_row(const BoundaryStep& call) { boundary::step<PerturbationNorm::kL1>(call); }

at::Tensor boundary_step(const at::Tensor& point_, const at::Tensor& image_, const at::Tensor& rise_,
                         const at::Tensor& slope_, const at::Tensor& across_, const MaybeTensor& eta_, double eta_value,
                         double alpha_max, double beta, int64_t norm) {
  TORCH_CHECK_VALUE(norm >= 0 && norm <= 2, "norm must be 0 (linf), 1 (l2) or 2 (l1), got ", norm);
  TORCH_CHECK_VALUE(point_.dim() >= 1, "point must be (S, ...), got a scalar");
  const int64_t rows = point_.size(0), n = rows == 0 ? 0 : point_.numel() / rows;
  const auto points = [&](const at::Tensor& tensor, const char* name) {
    TORCH_CHECK_VALUE(tensor.dim() >= 1 && tensor.numel() == point_.numel() && tensor.size(0) == rows, name,
                      " must have the shape ", point_.sizes(), ", got ", tensor.sizes());
    return as(tensor, at::kFloat);
  };
  const auto one_a_row = [&](const at::Tensor& tensor, const char* name, at::ScalarType type) {
    TORCH_CHECK_VALUE(tensor.dim() == 1 && tensor.size(0) == rows, name, " must be (S,) = (", rows, ",), got ",
                      tensor.sizes());
    return as(tensor, type);
  };
  const at::Tensor point = points(point_, "point"), image = points(image_, "image"), slope = points(slope_, "slope");
  const at::Tensor rise = one_a_row(rise_, "rise", at::kFloat), across = one_a_row(across_, "across", at::kBool);
  const at::Tensor eta = eta_.has_value() ? one_a_row(*eta_, "eta", at::kFloat) : at::Tensor();
  const at::Tensor out = at::empty_like(point);
  const float *from = pointer<float>(point), *clean = pointer<float>(image), *rises = pointer<float>(slope);
  const float *heights = pointer<float>(rise), *etas = eta.defined() ? pointer<float>(eta) : nullptr;
  const bool* over = pointer<bool>(across);
  float* to = pointer<float>(out);
  const auto run = norm == 0 ? linf_row : norm == 1 ? l2_row : l1_row;
  at::parallel_for(0, rows, grain(8 * n), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; row++) {
      run({n, heights[row], etas == nullptr ? float(eta_value) : etas[row], float(alpha_max), float(beta),
                    over[row], from + row * n, clean + row * n, rises + row * n, to + row * n});
    }
  });
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(regfast, CPU, m) { m.impl("boundary_step", &boundary_step); }

}  // namespace regfast
