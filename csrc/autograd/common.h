// What the autograd functions share. They call the ops that a device implements, and hold for every device.
#pragma once

#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/graph_task.h>
#include <torch/library.h>

#include "../target.h"

namespace regfast {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

template <class Signature>
auto op(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

inline void check_once_differentiable() {
  TORCH_CHECK(!at::GradMode::is_enabled(), "regfast's native losses have no second derivative (create_graph=True); use "
              "regfast.use_backend(\"reference\")");
}

// Takes a node over: as std::shared_ptr or c10::intrusive_ptr, whichever this version of torch has.
template <class Pointer = decltype(torch::autograd::Edge::function)>
Pointer owned(torch::autograd::Node* node) {
  if constexpr (std::is_constructible_v<Pointer, torch::autograd::Node*>) return Pointer(node);
  else return Pointer::unsafe_steal_from_new(node);
}

// A tensor that is traced (torch.compile, fake or functional tensors): its values are not known, its memory is not its own.
inline bool traced(const at::Tensor& tensor) {
  return tensor.is_meta() || !tensor.has_storage() ||
         tensor.key_set().has_any(c10::DispatchKeySet({c10::DispatchKey::Python, c10::DispatchKey::Functionalize}));
}

// Whether a value that is at hand is 1.
inline bool is_one(const at::Tensor& scalar) {
  if (scalar.dim() != 0 || !scalar.is_cpu() || traced(scalar)) return false;
  if (scalar.scalar_type() == at::kFloat) return *scalar.const_data_ptr<float>() == 1;  // item() costs a small loss's time
  return scalar.item<double>() == 1;
}

// grad · grad_output, where grad was made for grad_output = 1: itself where that is so and can be seen without waiting.
inline at::Tensor rescaled(const at::Tensor& grad, const at::Tensor& grad_output) {
  if (is_one(grad_output)) return grad;
  if (grad.is_cuda() && grad_output.dim() == 0 && !traced(grad) && !traced(grad_output)) {
    // On the device, which nobody waits for: where grad_output is 1 the gradient is neither read nor written. A second
    // backward would find it rescaled; the version makes autograd say so.
    static const auto rescale = op<at::Tensor&(at::Tensor&, const at::Tensor&)>("regfast::rescale_");
    at::Tensor own = grad;
    own.unsafeGetTensorImpl()->bump_version();
    return rescale.call(own, grad_output);
  }
  at::Tensor scale = grad_output;
  if (scale.dim() == 1) {
    scale = scale.unsqueeze(1);
    return grad.mul(scale).to(grad.scalar_type());
  }
  return grad.mul(scale);
}

// A gradient made in the forward pass, between ctx's saved data and backward. Backward takes it out unless the graph is
// retained: a leaf takes over a gradient that nobody else holds, and copies any other.
inline void hold(AutogradContext* ctx, const char* name, const at::Tensor& grad) { ctx->saved_data[name] = grad; }

inline at::Tensor held(AutogradContext* ctx, const char* name) {
  at::IValue& place = ctx->saved_data[name];
  const at::Tensor grad = place.toTensor();
  if (!torch::autograd::get_current_graph_task_keep_graph()) place = at::Tensor();
  return grad;
}

inline bool wants_gradient(const at::Tensor& tensor) { return tensor.requires_grad() && at::GradMode::is_enabled(); }

// Keeps what a recomputing backward needs, and gives it back.
inline void keep(AutogradContext* ctx, variable_list inputs, const Target& t) {
  const auto or_undefined = [](const MaybeTensor& tensor) { return tensor.has_value() ? *tensor : at::Tensor(); };
  for (const auto* tensor : {&t.first, &t.second, &t.weight, &t.dense, &t.smoothing, &t.class_weight, &t.sample_weight}) {
    inputs.push_back(or_undefined(*tensor));
  }
  ctx->save_for_backward(std::move(inputs));
  ctx->saved_data["weight_value"] = t.weight_value;
  ctx->saved_data["smoothing_value"] = t.smoothing_value;
  ctx->saved_data["ignore_index"] = t.ignore_index;
  ctx->saved_data["reduction"] = t.reduction;
  ctx->saved_data["index_target"] = t.index_target;
}

// The saved tensors, the first `inputs` of which are not the target's.
inline Target kept(AutogradContext* ctx, const variable_list& saved, size_t inputs) {
  const auto maybe = [&](size_t i) { return saved[inputs + i].defined() ? MaybeTensor(saved[inputs + i]) : MaybeTensor(); };
  auto& data = ctx->saved_data;
  return {maybe(0), maybe(1), maybe(2), data["weight_value"].toDouble(), maybe(3), maybe(4),
          data["smoothing_value"].toDouble(), maybe(5), maybe(6), data["ignore_index"].toInt(),
          data["reduction"].toInt(), data["index_target"].toBool()};
}

}  // namespace regfast
