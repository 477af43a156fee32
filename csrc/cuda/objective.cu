// objective on CUDA tensors: arguments around the kernels of cuda_objective.cuh.
#include "../include/cuda_objective.cuh"

#include <torch/library.h>

#include <optional>
#include <string_view>
#include <tuple>

#include "../include/cuda_launch.cuh"

namespace regfast::cuda::objectives {
namespace {

Kind kind_of(std::string_view name) {
  if (name == "ce") return Kind::kCrossEntropy;
  if (name == "margin") return Kind::kMargin;
  if (name == "dlr") return Kind::kLogitRatio;
  if (name == "probability-margin") return Kind::kProbabilityMargin;
  TORCH_CHECK_VALUE(false, "kind must be ce, margin, dlr or probability-margin, or one of them and -targeted, got ", name);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> objective(const at::Tensor& logits_, const at::Tensor& labels_,
                                                         std::string_view name,
                                                         const std::optional<at::Tensor>& targets_) {
  TORCH_CHECK_VALUE(logits_.dim() == 2, "logits must be (B, K), got ", logits_.sizes());
  constexpr std::string_view kSuffix = "-targeted";
  const bool targeted = name.size() > kSuffix.size() && name.substr(name.size() - kSuffix.size()) == kSuffix;
  const Kind kind = kind_of(targeted ? name.substr(0, name.size() - kSuffix.size()) : name);
  TORCH_CHECK_VALUE(!targeted || targets_.has_value(), "a targeted kind needs targets");
  const c10::cuda::CUDAGuard guard(logits_.device());
  const at::Tensor logits = with_rows(logits_), labels = ids_of(labels_, logits, "labels");
  const at::Tensor targets = targeted ? ids_of(*targets_, logits, "targets") : at::Tensor();
  const int64_t rows = logits.size(0), columns = logits.size(1);
  const int64_t least = kind == Kind::kLogitRatio ? (targeted ? 4 : 3) : kind == Kind::kCrossEntropy || targeted ? 1 : 2;
  TORCH_CHECK_VALUE(columns >= least, name, " needs at least ", least, " classes, logits have ", columns);
  TORCH_CHECK_VALUE(columns <= INT32_MAX / 2, "logits have too many classes: ", columns);
  const at::Tensor loss = at::empty({rows}, logits.options().dtype(at::kFloat));
  const at::Tensor prediction = at::empty({rows}, logits.options().dtype(at::kLong));
  const at::Tensor gradient = at::empty({rows, columns}, logits.options());
  if (rows == 0) return {loss, prediction, gradient};
  const Arguments arguments{logits.const_data_ptr(), logits.stride(0), labels.const_data_ptr<int64_t>(),
                            targeted ? targets.const_data_ptr<int64_t>() : nullptr, loss.data_ptr<float>(),
                            prediction.data_ptr<int64_t>(), gradient.data_ptr(), rows, static_cast<int>(columns), kind};
  switch (logits.scalar_type()) {
    case at::kFloat: C10_CUDA_CHECK(launch_objective<float>(arguments, current_stream())); break;
    case at::kHalf: C10_CUDA_CHECK(launch_objective<__half>(arguments, current_stream())); break;
    case at::kBFloat16: C10_CUDA_CHECK(launch_objective<__nv_bfloat16>(arguments, current_stream())); break;
    default: TORCH_CHECK_TYPE(false, "logits must be float32, float16 or bfloat16, got ", logits.scalar_type());
  }
  return {loss, prediction, gradient};
}

}  // namespace

TORCH_LIBRARY_IMPL(regfast, CUDA, m) { m.impl("objective", &objective); }

}  // namespace regfast::cuda::objectives
