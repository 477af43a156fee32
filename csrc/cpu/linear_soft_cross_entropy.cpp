// linear_soft_cross_entropy on CPU tensors: logits of a few rows at a time, replaced by their gradient and used up.
#include <torch/library.h>

#include <algorithm>

#include "formats.h"
#include "loss.h"

namespace regfast {
namespace {

struct Gradients {
  at::Tensor features, weight, bias;
};

// Rows whose logits are in memory at once: enough for a fast matrix product, at most half of the batch, about 8 MB.
int64_t rows_at_once(int64_t rows, int64_t classes) {
  const int64_t fit = std::max<int64_t>((int64_t(1) << 21) / std::max<int64_t>(classes, 1), 16);
  return std::max<int64_t>(std::min(fit, (rows + 1) / 2), 1);
}

at::Tensor run(const at::Tensor& features, const at::Tensor& weight, const MaybeTensor& bias, const Target& target,
               const MaybeTensor& grad_output, Gradients* wanted, bool of_features, bool of_weight, bool of_bias) {
  TORCH_CHECK_VALUE(features.dim() == 2, "features must be (B, d), got ", features.sizes());
  TORCH_CHECK_VALUE(weight.dim() == 2 && weight.size(1) == features.size(1), "linear_weight must be (K, ",
                    features.size(1), "), got ", weight.sizes());
  TORCH_CHECK_TYPE(weight.scalar_type() == features.scalar_type(), "linear_weight must have the dtype of features, ",
                   features.dtype(), ", got ", weight.dtype());
  const auto type = accumulator_type(features);
  const int64_t rows = features.size(0), classes = weight.size(0);
  const at::Tensor w = as(weight, type);
  at::Tensor b;
  if (bias.has_value()) {
    TORCH_CHECK_VALUE(bias->dim() == 1 && bias->size(0) == classes, "linear_bias must be (", classes, ",), got ",
                      bias->sizes());
    b = as(*bias, type);
  }
  const auto options = features.options().dtype(type);
  const int64_t step = rows_at_once(rows, classes);
  const at::Tensor buffer = at::empty({step, classes}, options);
  LossJob job(rows, classes, options, target);
  if (grad_output.has_value()) job.grad_output = *grad_output;
  // Made in the forward pass, a float16 gradient is rounded when a loss scale has reached it.
  const auto stored = [&](at::ScalarType dtype) { return dtype == at::kHalf && !grad_output.has_value() ? type : dtype; };
  if (of_features) wanted->features = at::empty(features.sizes(), features.options().dtype(stored(features.scalar_type())));
  at::Tensor grad_weight, grad_bias;
  if (of_weight) grad_weight = at::zeros(weight.sizes(), options);
  if (of_bias) grad_bias = at::zeros({classes}, options);
  for (int64_t begin = 0; begin < rows; begin += step) {
    const int64_t count = std::min(step, rows - begin);
    at::Tensor chunk = buffer.narrow(0, 0, count);
    const at::Tensor inputs = features.narrow(0, begin, count).to(type);
    if (b.defined()) at::addmm_out(chunk, b, inputs, w.t());
    else at::mm_out(chunk, inputs, w.t());
    const bool gradient = of_features || of_weight || of_bias;
    job.run(chunk, gradient ? chunk : at::Tensor(), begin);
    if (of_features) wanted->features.narrow(0, begin, count).copy_(at::mm(chunk, w));
    if (of_weight) grad_weight.addmm_(chunk.t(), inputs);
    if (of_bias) grad_bias.add_(chunk.sum(0));
  }
  if (of_weight) wanted->weight = grad_weight.to(stored(weight.scalar_type()));
  if (of_bias) wanted->bias = grad_bias.to(stored(bias->scalar_type()));
  return job.reduced();
}

at::Tensor or_empty(const at::Tensor& tensor, const at::Tensor& like) {
  return tensor.defined() ? tensor : at::empty({0}, like.options());
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> forward(
    const at::Tensor& features, const at::Tensor& linear_weight, const MaybeTensor& linear_bias,
    REGFAST_TARGET_PARAMETERS, bool features_gradient, bool weight_gradient, bool bias_gradient) {
  const Target target{REGFAST_TARGET_ARGUMENTS};
  Gradients grads;
  at::Tensor loss = run(features, linear_weight, linear_bias, target, {}, &grads, features_gradient, weight_gradient,
                        bias_gradient && linear_bias.has_value());
  return {loss, or_empty(grads.features, features), or_empty(grads.weight, features), or_empty(grads.bias, features)};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> backward(
    const at::Tensor& grad_output, const at::Tensor& features, const at::Tensor& linear_weight,
    const MaybeTensor& linear_bias, REGFAST_TARGET_PARAMETERS, bool features_gradient, bool weight_gradient,
    bool bias_gradient) {
  const Target target{REGFAST_TARGET_ARGUMENTS};
  Gradients grads;
  run(features, linear_weight, linear_bias, target, grad_output, &grads, features_gradient, weight_gradient,
      bias_gradient && linear_bias.has_value());
  return {or_empty(grads.features, features), or_empty(grads.weight, features), or_empty(grads.bias, features)};
}

}  // namespace

TORCH_LIBRARY_IMPL(regfast, CPU, m) {
  m.impl("linear_soft_cross_entropy_forward", &forward);
  m.impl("linear_soft_cross_entropy_backward", &backward);
}

}  // namespace regfast
