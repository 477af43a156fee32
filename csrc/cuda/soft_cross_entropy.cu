// soft_cross_entropy on CUDA tensors: arguments and memory around the kernels of cuda_soft_cross_entropy.cuh.
#include <torch/library.h>

#include "../include/cuda_launch.cuh"
#include "../include/cuda_soft_cross_entropy.cuh"
#include "../target.h"

namespace regfast::cuda {
namespace {

// Up to so many rows every block counts those that are not ignored, which costs less than a launch that does it once.
constexpr int64_t kCountShort = 4096, kCountLong = 1024;

struct Work {
  at::Tensor logits, grad_output, loss, grad;  // loss: (B,) or 0-d
  bool unless_one = false;  // the gradient is there already if grad_output is 1
};

template <typename T, typename D>
cudaError_t launch_as(const LossArguments& arguments, const Device& device) {
  return arguments.dense != nullptr ? launch_loss<T, D, true>(arguments, device, current_stream())
                                    : launch_loss<T, float, false>(arguments, device, current_stream());
}

template <typename T>
cudaError_t launch_as(const LossArguments& arguments, const Device& device, bool dense_is_float) {
  return dense_is_float ? launch_as<T, float>(arguments, device) : launch_as<T, T>(arguments, device);
}

void check_labels(const at::Tensor& labels, const at::Tensor& logits, const char* name) {
  TORCH_CHECK_TYPE(labels.scalar_type() == at::kLong, name, " must be int64, got ", labels.scalar_type());
  TORCH_CHECK_VALUE(labels.dim() == 1 && labels.size(0) == logits.size(0), name, " must have one label for each of the ",
                    logits.size(0), " rows, got shape ", labels.sizes());
  TORCH_CHECK_VALUE(labels.device() == logits.device(), name, " must be on ", logits.device(), ", got ", labels.device());
}

// The loss into work.loss unless there is a grad_output; the gradient into work.grad where that is defined.
void run(Work& work, const Target& target) {
  const at::Tensor& logits = work.logits;
  TORCH_CHECK_VALUE(logits.dim() == 2 && logits.size(1) > 0, "logits must be (B, K) with K > 0, got ", logits.sizes());
  TORCH_CHECK_VALUE(logits.size(1) <= INT32_MAX / 2, "logits have too many classes: ", logits.size(1));
  const auto options = logits.options().dtype(at::kFloat);
  LossArguments arguments{};
  arguments.logits = logits.const_data_ptr();
  arguments.logits_stride = logits.stride(0);
  arguments.batch = logits.size(0);
  arguments.columns = static_cast<int>(logits.size(1));
  arguments.ignore_index = target.ignore_index;

  at::Tensor first, second, dense;
  bool dense_is_float = true;
  if (target.first.has_value()) {
    check_labels(*target.first, logits, "first");
    first = target.first->contiguous();
    arguments.first = first.const_data_ptr<int64_t>();
    if (target.second.has_value()) {
      check_labels(*target.second, logits, "second");
      second = target.second->contiguous();
      arguments.second = second.const_data_ptr<int64_t>();
    }
  } else {
    TORCH_CHECK_VALUE(target.dense.has_value(), "a target needs first or dense");
    TORCH_CHECK_VALUE(target.dense->sizes() == logits.sizes() && target.dense->device() == logits.device(),
                      "dense must be ", logits.sizes(), " on ", logits.device(), ", got ", target.dense->sizes(), " on ",
                      target.dense->device());
    dense = target.dense->scalar_type() == logits.scalar_type() ? *target.dense : target.dense->to(at::kFloat);
    dense = with_rows(dense);
    dense_is_float = dense.scalar_type() == at::kFloat;
    arguments.dense = dense.const_data_ptr();
    arguments.dense_stride = dense.stride(0);
  }
  const at::Tensor lam = floats(target.lam, logits), smoothing = floats(target.smoothing, logits);
  const at::Tensor class_weight = floats(target.class_weight, logits);
  const at::Tensor sample_weight = floats(target.sample_weight, logits);
  const at::Tensor grad_output = work.grad_output.defined() ? floats(work.grad_output, logits) : at::Tensor();
  arguments.lam = pointer(lam);
  arguments.lam_stride = lam.defined() && lam.dim() == 1 ? 1 : 0;
  arguments.lam_value = static_cast<float>(target.lam_value);
  arguments.smoothing = pointer(smoothing);
  arguments.smoothing_value = static_cast<float>(target.smoothing_value);
  arguments.class_weight = pointer(class_weight);
  arguments.sample_weight = pointer(sample_weight);
  arguments.z_loss = static_cast<float>(target.z_loss);
  arguments.grad_output = pointer(grad_output);
  arguments.grad_output_stride = grad_output.defined() && grad_output.dim() == 1 ? 1 : 0;
  arguments.mean = target.reduction == kMean;

  if (work.grad.defined()) {
    arguments.grad = work.grad.data_ptr();
    arguments.grad_stride = work.grad.stride(0);
  }
  const bool total = !work.grad_output.defined() && target.reduction != kNone;
  if (!work.grad_output.defined()) {
    work.loss = total ? at::empty({}, options) : at::empty({arguments.batch}, options);
  }
  if (arguments.batch == 0) {  // a sum of nothing is 0, a mean of nothing NaN
    if (total) work.loss.fill_(arguments.mean ? NAN : 0.0);
    return;
  }
  const c10::cuda::CUDAGuard guard(logits.device());
  const Device& device = properties_of(logits);
  if (grad_output.defined() && grad_output.dim() == 0) arguments.scaled = scaled_flag(logits);
  arguments.unless_one = work.unless_one;
  const bool weighted = sample_weight.defined() || (target.index_target && class_weight.defined());
  const bool counted = arguments.mean && (weighted || first.defined());
  const int64_t count_at_most = arguments.columns <= kShortColumns ? kCountShort : kCountLong;
  arguments.count_rows = counted && !weighted && arguments.batch <= count_at_most;
  at::Tensor denominator, partial, counter;
  if (total || counted) {
    partial = at::empty({most_shares(device, arguments.batch)}, options);
    counter = counter_for(logits);
  }
  if (counted && !arguments.count_rows) {
    denominator = at::empty({}, options);
    const Total sum{denominator.data_ptr<float>(), partial.data_ptr<float>(), counter.data_ptr<int>()};
    C10_CUDA_CHECK(launch_denominator(arguments, target.index_target, device, sum, current_stream()));
    arguments.denominator = denominator.const_data_ptr<float>();
  }
  if (total) {
    arguments.total = {work.loss.data_ptr<float>(), partial.data_ptr<float>(), counter.data_ptr<int>()};
  } else if (!work.grad_output.defined()) {
    arguments.losses = work.loss.data_ptr<float>();
  }
  cudaError_t error = cudaSuccess;
  switch (logits.scalar_type()) {
    case at::kFloat: error = launch_as<float>(arguments, device, true); break;
    case at::kHalf: error = launch_as<__half>(arguments, device, dense_is_float); break;
    case at::kBFloat16: error = launch_as<__nv_bfloat16>(arguments, device, dense_is_float); break;
    default: TORCH_CHECK_TYPE(false, "logits must be float32, float16 or bfloat16, got ", logits.scalar_type());
  }
  C10_CUDA_CHECK(error);
}

std::tuple<at::Tensor, at::Tensor> forward(const at::Tensor& logits, REGFAST_TARGET_PARAMETERS, bool gradient) {
  const Target target{REGFAST_TARGET_ARGUMENTS};
  Work work{with_rows(logits), {}, {}, {}};
  if (gradient) work.grad = at::empty(logits.sizes(), logits.options());
  run(work, target);
  return {work.loss, gradient ? work.grad : at::empty({0}, logits.options())};
}

at::Tensor backward(const at::Tensor& grad_output, const at::Tensor& logits, REGFAST_TARGET_PARAMETERS) {
  const Target target{REGFAST_TARGET_ARGUMENTS};
  Work work{with_rows(logits), grad_output, {}, at::empty(logits.sizes(), logits.options())};
  run(work, target);
  return work.grad;
}

at::Tensor& remake(at::Tensor& grad, const at::Tensor& grad_output, const at::Tensor& logits, REGFAST_TARGET_PARAMETERS) {
  const Target target{REGFAST_TARGET_ARGUMENTS};
  Work work{with_rows(logits), grad_output, {}, grad, true};
  run(work, target);
  return grad;
}

bool was_scaled(const at::Tensor& logits) { return *static_cast<volatile int*>(scaled_flag(logits)) != 0; }

at::Tensor inplace(at::Tensor& logits, REGFAST_TARGET_PARAMETERS) {
  const Target target{REGFAST_TARGET_ARGUMENTS};
  Work work{with_rows(logits), {}, {}, logits};
  TORCH_CHECK_VALUE(work.logits.is_same(logits), "logits must have adjacent columns, got strides ", logits.strides());
  run(work, target);
  return work.loss;
}

template <typename T>
cudaError_t rescale_as(const at::Tensor& grad, const at::Tensor& scale) {
  return launch_rescale(static_cast<T*>(grad.data_ptr()), scale.const_data_ptr<float>(), grad.numel(),
                        properties_of(grad), current_stream());
}

// grad *= grad_output (0-d), without reading or writing grad where grad_output is 1, and without waiting for the device.
at::Tensor& rescale(at::Tensor& grad, const at::Tensor& grad_output) {
  if (grad.numel() == 0) return grad;
  if (!grad.is_contiguous()) return grad.mul_(grad_output);
  const c10::cuda::CUDAGuard guard(grad.device());
  const at::Tensor scale = floats(grad_output, grad);
  switch (grad.scalar_type()) {
    case at::kFloat: C10_CUDA_CHECK(rescale_as<float>(grad, scale)); break;
    case at::kHalf: C10_CUDA_CHECK(rescale_as<__half>(grad, scale)); break;
    case at::kBFloat16: C10_CUDA_CHECK(rescale_as<__nv_bfloat16>(grad, scale)); break;
    default: grad.mul_(grad_output);
  }
  return grad;
}

}  // namespace

TORCH_LIBRARY_IMPL(regfast, CUDA, m) {
  m.impl("soft_cross_entropy_forward", &forward);
  m.impl("soft_cross_entropy_backward", &backward);
  m.impl("soft_cross_entropy_inplace", &inplace);
  m.impl("rescale_", &rescale);
  m.impl("soft_cross_entropy_remake_", &remake);
  m.impl("was_scaled", &was_scaled);
}

}  // namespace regfast::cuda
