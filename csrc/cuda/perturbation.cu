// perturb_step, random_start and l1_box_projection on CUDA tensors: arguments around the kernels of cuda_perturbation.cuh.
#include "../include/cuda_perturbation.cuh"

#include <torch/library.h>

#include "../include/cuda_launch.cuh"
#include "../include/cuda_random_start.cuh"
#include "../target.h"

namespace regfast::cuda::perturbation {
namespace {

Norm norm_of(int64_t norm) {
  TORCH_CHECK_VALUE(norm >= 0 && norm <= 2, "norm must be 0 (linf), 1 (l2) or 2 (l1), got ", norm);
  return Norm(norm);
}

// The memory and the kernel's view of a number that may be one a row.
struct Numbers {
  at::Tensor tensor;
  PerRow rows;

  Numbers(const MaybeTensor& given, double value, const at::Tensor& like, const char* name)
      : tensor(floats(given, like)), rows{nullptr, 0, static_cast<float>(value)} {
    if (!tensor.defined()) return;
    TORCH_CHECK_VALUE(tensor.numel() == 1 || (tensor.dim() == 1 && tensor.size(0) == like.size(0)), name,
                      " must be a number or (B,) = (", like.size(0), ",), got ", tensor.sizes());
    rows = {tensor.const_data_ptr<float>(), tensor.numel() == 1 ? 0 : 1, 0.0f};
  }
};

void check_points(const at::Tensor& tensor, const char* name) {
  TORCH_CHECK_VALUE(tensor.dim() >= 1, name, " must be (B, ...), got a scalar");
  TORCH_CHECK_TYPE(tensor.scalar_type() == at::kFloat, name, " must be float32, got ", tensor.scalar_type());
}

// Contiguous, with the shape and on the device of `like`.
at::Tensor rows_of(const at::Tensor& tensor, const at::Tensor& like, const char* name) {
  TORCH_CHECK_VALUE(tensor.sizes() == like.sizes() && tensor.device() == like.device(), name, " must be ", like.sizes(),
                    " on ", like.device(), ", got ", tensor.sizes(), " on ", tensor.device());
  return tensor.contiguous();
}

at::Tensor float_rows_of(const at::Tensor& tensor, const at::Tensor& like, const char* name) {
  return rows_of(tensor, like, name).to(at::kFloat);
}

int row_size(const at::Tensor& tensor) {
  const int64_t size = tensor.size(0) == 0 ? 0 : tensor.numel() / tensor.size(0);
  TORCH_CHECK_VALUE(size <= INT32_MAX / 2, "a sample has too many entries: ", size);
  return static_cast<int>(size);
}

at::Tensor perturb_step(const at::Tensor& point_, const at::Tensor& gradient_, const at::Tensor& clean_,
                        const MaybeTensor& eps_, double eps_value, const MaybeTensor& step_, double step_value,
                        int64_t norm_, const MaybeTensor& previous_, const MaybeTensor& momentum_,
                        double momentum_value, const MaybeTensor& sparsity_, double sparsity_value, double lower,
                        double upper) {
  const Norm norm = norm_of(norm_);
  check_points(point_, "point");
  const c10::cuda::CUDAGuard guard(point_.device());
  const at::Tensor point = point_.contiguous(), clean = float_rows_of(clean_, point_, "clean");
  const at::Tensor previous = previous_.has_value() ? float_rows_of(*previous_, point_, "previous") : at::Tensor();
  at::Tensor gradient = rows_of(gradient_, point_, "gradient");
  if (gradient.scalar_type() != at::kHalf && gradient.scalar_type() != at::kBFloat16) gradient = gradient.to(at::kFloat);
  const Numbers eps(eps_, eps_value, point, "eps"), step(step_, step_value, point, "step"),
      momentum(momentum_, momentum_value, point, "momentum"), sparsity(sparsity_, sparsity_value, point, "sparsity");
  const at::Tensor out = at::empty_like(point);
  if (out.numel() == 0) return out;
  const StepArguments arguments{point.const_data_ptr<float>(), gradient.const_data_ptr(),
                                clean.const_data_ptr<float>(), pointer(previous), out.data_ptr<float>(), eps.rows,
                                step.rows, momentum.rows, sparsity.rows,
                                {static_cast<float>(lower), static_cast<float>(upper)}, point.size(0), row_size(point)};
  switch (gradient.scalar_type()) {
    case at::kHalf:
      C10_CUDA_CHECK(launch_step<__half>(arguments, norm, properties_of(point), current_stream()));
      break;
    case at::kBFloat16:
      C10_CUDA_CHECK(launch_step<__nv_bfloat16>(arguments, norm, properties_of(point), current_stream()));
      break;
    default:
      C10_CUDA_CHECK(launch_step<float>(arguments, norm, properties_of(point), current_stream()));
  }
  return out;
}

at::Tensor l1_box_projection(const at::Tensor& clean_, const at::Tensor& delta_, const MaybeTensor& eps_,
                             double eps_value, double lower, double upper) {
  check_points(clean_, "clean");
  const c10::cuda::CUDAGuard guard(clean_.device());
  const at::Tensor clean = clean_.contiguous(), delta = float_rows_of(delta_, clean_, "delta");
  const Numbers eps(eps_, eps_value, clean, "eps");
  const at::Tensor out = at::empty_like(clean);
  if (out.numel() == 0) return out;
  const ProjectionArguments arguments{clean.const_data_ptr<float>(), delta.const_data_ptr<float>(),
                                      out.data_ptr<float>(), eps.rows,
                                      {static_cast<float>(lower), static_cast<float>(upper)}, clean.size(0),
                                      row_size(clean)};
  C10_CUDA_CHECK(launch_l1_projection(arguments, properties_of(clean), current_stream()));
  return out;
}

at::Tensor random_start(const at::Tensor& clean_, const MaybeTensor& eps_, double eps_value, int64_t norm_,
                        int64_t seed, const at::Tensor& sample_, int64_t stage, const at::Tensor& restart_,
                        const at::Tensor& step_, bool sphere, double lower, double upper) {
  const Norm norm = norm_of(norm_);
  check_points(clean_, "clean");
  const c10::cuda::CUDAGuard guard(clean_.device());
  const at::Tensor clean = clean_.contiguous(), sample = ids_of(sample_, clean_, "sample"),
                   restart = ids_of(restart_, clean_, "restart"), step = ids_of(step_, clean_, "step");
  const Numbers eps(eps_, eps_value, clean, "eps");
  const at::Tensor out = at::empty_like(clean);
  if (out.numel() == 0) return out;
  const StartArguments arguments{clean.const_data_ptr<float>(), out.data_ptr<float>(),
                                 sample.const_data_ptr<int64_t>(), restart.const_data_ptr<int64_t>(),
                                 step.const_data_ptr<int64_t>(), eps.rows,
                                 {static_cast<float>(lower), static_cast<float>(upper)}, static_cast<uint64_t>(seed),
                                 stage, sphere, clean.size(0), row_size(clean)};
  C10_CUDA_CHECK(launch_start(arguments, norm, properties_of(clean), current_stream()));
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(regfast, CUDA, m) {
  m.impl("perturb_step", &perturb_step);
  m.impl("l1_box_projection", &l1_box_projection);
  m.impl("random_start", &random_start);
}

}  // namespace regfast::cuda::perturbation
