// What the autograd functions share. They call the ops that a device implements, and hold for every device.
#pragma once

#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/graph_task.h>
#include <torch/library.h>

#include <cmath>

#include "../target.h"

namespace regfast {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

template <class Signature>
auto op(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

inline void check_once_differentiable() {
  TORCH_CHECK(!at::GradMode::is_enabled(), "regfast's fused losses have no second derivative (create_graph=True); use "
              "soft_cross_entropy under regfast.use_backend(\"reference\")");
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

// Whether the host would have to wait for a tensor's values.
inline bool far(const at::Tensor& tensor) { return !tensor.is_cpu(); }

// The value of a 0-d tensor that is at hand.
inline double value_of(const at::Tensor& scalar) {
  if (scalar.scalar_type() == at::kFloat) return *scalar.const_data_ptr<float>();  // item() costs a small loss's time
  return scalar.item<double>();
}

// Whether a value that is at hand is 1.
inline bool is_one(const at::Tensor& scalar) {
  return scalar.dim() == 0 && !far(scalar) && !traced(scalar) && value_of(scalar) == 1;
}

// Whether all of these values are known to be finite, without waiting for them.
inline bool are_finite(const at::Tensor& values) {
  if (far(values)) return false;
  return values.dim() == 0 ? std::isfinite(value_of(values)) : values.isfinite().all().item<bool>();
}

// grad · grad_output, where grad was made for grad_output = 1. Scaled where it lies if the graph is done with; from a graph
// that is kept a copy is handed out, which its new owner may change. What is 0, as ignored rows are, stays 0 under infinity.
inline at::Tensor rescaled(const at::Tensor& grad, const at::Tensor& grad_output) {
  if (traced(grad) || traced(grad_output)) {
    std::vector<int64_t> shape(grad.dim(), 1);  // with no dimension it would be rounded to 16 bits first: 65536 to infinity
    if (grad_output.dim() == 1) shape[0] = -1;
    const at::Tensor scaled = grad.mul(grad_output.reshape(shape)).to(grad.scalar_type());
    return at::where(grad.eq(0), at::zeros({}, grad.options()), scaled);
  }
  at::Tensor own = torch::autograd::get_current_graph_task_keep_graph() ? grad.clone() : grad;
  if (is_one(grad_output)) return own;
  if (far(own) && grad_output.dim() == 0) {
    // On the device, which nobody waits for: where grad_output is 1 the gradient is neither read nor written.
    static const auto rescale = op<at::Tensor&(at::Tensor&, const at::Tensor&)>("regfast::rescale_");
    return rescale.call(own, grad_output);
  }
  at::AutoDispatchBelowADInplaceOrView below;  // nobody differentiates this, and a small loss waits for it
  const at::Tensor factor = grad_output.dim() == 1 ? grad_output.unsqueeze(1) : grad_output;
  if (are_finite(grad_output)) return own.mul_(factor);
  const at::Tensor zero = own.eq(0);
  return own.mul_(factor).masked_fill_(zero, 0);
}

inline bool wants_gradient(const at::Tensor& tensor) { return tensor.requires_grad() && at::GradMode::is_enabled(); }

// Kernels read what they are given where the logits (features) are; a number may lie on the CPU.
inline void check_device(const at::Tensor& rows, const MaybeTensor& given, const char* name, bool number = false) {
  TORCH_CHECK_VALUE(!given.has_value() || given->device() == rows.device() ||
                        (number && given->is_cpu() && given->dim() == 0),
                    name, " must be on ", rows.device(), ", got ", given->device());
}

inline void check_devices(const at::Tensor& rows, const Target& t) {
  check_device(rows, t.first, "first"), check_device(rows, t.second, "second"), check_device(rows, t.lam, "lam", true);
  check_device(rows, t.dense, "dense"), check_device(rows, t.smoothing, "smoothing", true);
  check_device(rows, t.class_weight, "class_weight"), check_device(rows, t.sample_weight, "sample_weight");
}

// Keeps what a recomputing backward needs, and gives it back.
inline void keep(AutogradContext* ctx, variable_list inputs, const Target& t) {
  const auto or_undefined = [](const MaybeTensor& tensor) { return tensor.has_value() ? *tensor : at::Tensor(); };
  for (const auto* tensor : {&t.first, &t.second, &t.lam, &t.dense, &t.smoothing, &t.class_weight, &t.sample_weight}) {
    inputs.push_back(or_undefined(*tensor));
  }
  ctx->save_for_backward(std::move(inputs));
  ctx->saved_data["lam_value"] = t.lam_value;
  ctx->saved_data["smoothing_value"] = t.smoothing_value;
  ctx->saved_data["ignore_index"] = t.ignore_index;
  ctx->saved_data["reduction"] = t.reduction;
  ctx->saved_data["index_target"] = t.index_target;
  ctx->saved_data["z_loss"] = t.z_loss;
}

// The saved tensors, the first `inputs` of which are not the target's.
inline Target kept(AutogradContext* ctx, const variable_list& saved, size_t inputs) {
  const auto maybe = [&](size_t i) { return saved[inputs + i].defined() ? MaybeTensor(saved[inputs + i]) : MaybeTensor(); };
  auto& data = ctx->saved_data;
  return {maybe(0), maybe(1), maybe(2), data["lam_value"].toDouble(), maybe(3), maybe(4),
          data["smoothing_value"].toDouble(), maybe(5), maybe(6), data["ignore_index"].toInt(),
          data["reduction"].toInt(), data["index_target"].toBool(), data["z_loss"].toDouble()};
}

}  // namespace regfast
