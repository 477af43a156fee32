// linear_soft_cross_entropy: autograd and Meta kernels. Scalar reductions make all gradients in the forward pass, while
// a chunk's logits are there; with reduction "none" the backward pass makes the logits again.
#include "common.h"

namespace regfast::linear_soft_cross_entropy_autograd {
namespace {

using Forward = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor>(
    const at::Tensor&, const at::Tensor&, const MaybeTensor&, REGFAST_TARGET_PARAMETERS, bool, bool, bool);
using Backwards = std::tuple<at::Tensor, at::Tensor, at::Tensor>(
    const at::Tensor&, const at::Tensor&, const at::Tensor&, const MaybeTensor&, REGFAST_TARGET_PARAMETERS, bool, bool,
    bool);

const auto& forward_op() {
  static const auto handle = op<Forward>("regfast::linear_soft_cross_entropy_forward");
  return handle;
}
const auto& backward_op() {
  static const auto handle = op<Backwards>("regfast::linear_soft_cross_entropy_backward");
  return handle;
}

void check_devices(const at::Tensor& features, const at::Tensor& weight, const MaybeTensor& bias, const Target& target) {
  check_device(features, weight, "linear_weight"), check_device(features, bias, "linear_bias");
  check_devices(features, target);
}

struct LinearLoss : torch::autograd::Function<LinearLoss> {
  static at::Tensor forward(AutogradContext* ctx, at::Tensor features, at::Tensor weight, MaybeTensor bias,
                            const Target& target) {
    const bool of_features = features.requires_grad(), of_weight = weight.requires_grad();
    const bool of_bias = bias.has_value() && bias->requires_grad();
    at::AutoDispatchBelowADInplaceOrView below;
    const bool store = target.reduction != kNone;
    auto [loss, grad_features, grad_weight, grad_bias] =
        forward_op().call(features, weight, bias, REGFAST_TARGET_OF(target), store && of_features,
                          store && of_weight, store && of_bias);
    ctx->saved_data["stored"] = store;
    if (store) ctx->save_for_backward({grad_features, grad_weight, grad_bias});
    else keep(ctx, {features, weight, bias.value_or(at::Tensor())}, target);
    ctx->saved_data["bias"] = bias.has_value();
    return loss;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    check_once_differentiable();
    const auto saved = ctx->get_saved_variables();
    const bool wanted[] = {ctx->needs_input_grad(0), ctx->needs_input_grad(1),
                           ctx->saved_data["bias"].toBool() && ctx->needs_input_grad(2)};
    variable_list out(4);
    if (ctx->saved_data["stored"].toBool()) {
      for (int i = 0; i < 3; i++) {
        if (wanted[i]) out[i] = rescaled(saved[i], grads[0]);  // autograd rounds it to the input's dtype
      }
      return out;
    }
    const Target target = kept(ctx, saved, 3);
    const MaybeTensor bias = saved[2].defined() ? MaybeTensor(saved[2]) : MaybeTensor();
    auto [grad_features, grad_weight, grad_bias] = backward_op().call(
        grads[0], saved[0], saved[1], bias, REGFAST_TARGET_OF(target), wanted[0], wanted[1], wanted[2]);
    if (wanted[0]) out[0] = grad_features;
    if (wanted[1]) out[1] = grad_weight;
    if (wanted[2]) out[2] = grad_bias;
    return out;
  }
};

at::Tensor without_gradient(const at::Tensor& features, const at::Tensor& linear_weight, const MaybeTensor& linear_bias,
                            REGFAST_TARGET_PARAMETERS) {
  check_devices(features, linear_weight, linear_bias, {REGFAST_TARGET_ARGUMENTS});
  return std::get<0>(forward_op().call(features, linear_weight, linear_bias, REGFAST_TARGET_ARGUMENTS, false, false, false));
}

at::Tensor autograd(const at::Tensor& features, const at::Tensor& linear_weight, const MaybeTensor& linear_bias,
                    REGFAST_TARGET_PARAMETERS) {
  if (wants_gradient(features) || wants_gradient(linear_weight) || (linear_bias.has_value() && wants_gradient(*linear_bias))) {
    const Target target{REGFAST_TARGET_ARGUMENTS};
    check_devices(features, linear_weight, linear_bias, target);
    return LinearLoss::apply(features, linear_weight, linear_bias, target);
  }
  at::AutoDispatchBelowADInplaceOrView below;
  return without_gradient(features, linear_weight, linear_bias, REGFAST_TARGET_ARGUMENTS);
}

// `stored`: made in the forward pass, where float16 waits to be rounded.
at::Tensor meta_like(const at::Tensor& tensor, bool wanted, bool stored) {
  const auto type = stored && tensor.scalar_type() == at::kHalf ? at::kFloat : tensor.scalar_type();
  return wanted ? at::empty_symint(tensor.sym_sizes(), tensor.options().dtype(type)) : at::empty({0}, tensor.options());
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> meta_gradients(
    const at::Tensor& features, const at::Tensor& linear_weight, const MaybeTensor& linear_bias, bool features_gradient,
    bool weight_gradient, bool bias_gradient, bool stored) {
  return {meta_like(features, features_gradient, stored), meta_like(linear_weight, weight_gradient, stored),
          meta_like(linear_bias.value_or(features), bias_gradient && linear_bias.has_value(), stored)};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> meta_backward(
    const at::Tensor&, const at::Tensor& features, const at::Tensor& linear_weight, const MaybeTensor& linear_bias,
    REGFAST_TARGET_PARAMETERS, bool features_gradient, bool weight_gradient, bool bias_gradient) {
  return meta_gradients(features, linear_weight, linear_bias, features_gradient, weight_gradient, bias_gradient, false);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> meta_forward(
    const at::Tensor& features, const at::Tensor& linear_weight, const MaybeTensor& linear_bias, REGFAST_TARGET_PARAMETERS,
    bool features_gradient, bool weight_gradient, bool bias_gradient) {
  const auto options = features.options().dtype(features.scalar_type() == at::kDouble ? at::kDouble : at::kFloat);
  at::Tensor loss =
      reduction == kNone ? at::empty_symint({features.sym_size(0)}, options) : at::empty({}, options);
  auto [grad_features, grad_weight, grad_bias] =
      meta_gradients(features, linear_weight, linear_bias, features_gradient, weight_gradient, bias_gradient, true);
  return {loss, grad_features, grad_weight, grad_bias};
}

}  // namespace

TORCH_LIBRARY_IMPL(regfast, Autograd, m) { m.impl("linear_soft_cross_entropy", &autograd); }

TORCH_LIBRARY_IMPL(regfast, CompositeExplicitAutograd, m) { m.impl("linear_soft_cross_entropy", &without_gradient); }

TORCH_LIBRARY_IMPL(regfast, Meta, m) {
  m.impl("linear_soft_cross_entropy_forward", &meta_forward);
  m.impl("linear_soft_cross_entropy_backward", &meta_backward);
}

}  // namespace regfast::linear_soft_cross_entropy_autograd
