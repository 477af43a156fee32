// soft_cross_entropy on CPU tensors: checks, threads, and the mean around the row kernels.
#include "../include/soft_cross_entropy.h"

#include <torch/library.h>

#include "formats.h"
#include "gradient_memory.h"
#include "loss.h"

namespace regfast {
namespace {

std::tuple<at::Tensor, at::Tensor> forward(const at::Tensor& logits, REGFAST_TARGET_PARAMETERS, bool gradient) {
  const Target target{REGFAST_TARGET_ARGUMENTS};
  LossJob job(logits, target);
  at::Tensor grad = gradient ? gradient_like(logits) : at::empty({0}, logits.options());
  if (gradient) job.grad = grad;
  job.run();
  return {job.reduced(), grad};
}

at::Tensor backward(const at::Tensor& grad_output, const at::Tensor& logits, REGFAST_TARGET_PARAMETERS) {
  const Target target{REGFAST_TARGET_ARGUMENTS};
  LossJob job(logits, target);
  job.grad = gradient_like(logits);
  job.grad_output = grad_output;
  job.run();
  return job.grad;
}

at::Tensor inplace(at::Tensor& logits, REGFAST_TARGET_PARAMETERS) {
  const Target target{REGFAST_TARGET_ARGUMENTS};
  LossJob job(logits, target);
  TORCH_CHECK_VALUE(job.logits.is_same(logits), "logits must have adjacent columns, got strides ", logits.strides());
  job.grad = logits;
  job.run();
  return job.reduced();
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor> stats_forward(
    const at::Tensor& logits, REGFAST_TARGET_PARAMETERS, const MaybeTensor& features, const MaybeTensor& centers,
    bool gradient) {
  const Target target{REGFAST_TARGET_ARGUMENTS};
  LossJob job(logits, target);
  at::Tensor grad = gradient ? gradient_like(logits) : at::empty({0}, logits.options());
  if (gradient) job.grad = grad;
  const int64_t rows = logits.size(0);
  job.scalars = at::empty({5, rows}, job.losses.options());
  job.losses = job.scalars[0];
  job.prediction = at::empty({rows}, logits.options().dtype(at::kLong));
  job.label = at::empty({rows}, logits.options().dtype(at::kLong));
  job.run();
  at::Tensor geometry = features.has_value()
      ? feature_geometry(*features, centers, job.label, job.prediction, ignore_index).to(job.losses.scalar_type())
      : at::empty({0, rows}, job.losses.options());
  // The op's outputs may not share memory: with reduction "none" the loss is a row of its own.
  at::Tensor loss = reduction == kNone ? job.losses.clone() : job.reduced();
  return {loss, grad, job.scalars, geometry, job.prediction, job.label};
}

at::Tensor stats_backward(const MaybeTensor& grad_output, const at::Tensor& grad_scalars, const at::Tensor& logits,
                          REGFAST_TARGET_PARAMETERS) {
  Target target{REGFAST_TARGET_ARGUMENTS};
  if (!grad_output.has_value()) target.reduction = kSum;  // nobody divides by the mean's denominator, which may be 0
  LossJob job(logits, target);
  job.grad = gradient_like(logits);
  job.grad_output = grad_output.has_value() ? *grad_output : at::zeros({}, job.losses.options());
  job.grad_scalars = as(grad_scalars, job.losses.scalar_type());
  job.run();
  return job.grad;
}

}  // namespace

TORCH_LIBRARY_IMPL(regfast, CPU, m) {
  m.impl("soft_cross_entropy_forward", &forward);
  m.impl("soft_cross_entropy_backward", &backward);
  m.impl("soft_cross_entropy_inplace", &inplace);
  m.impl("soft_cross_entropy_stats_forward", &stats_forward);
  m.impl("soft_cross_entropy_stats_backward", &stats_backward);
}

}  // namespace regfast
