// soft_cross_entropy: autograd and Meta kernels. Scalar reductions write the gradient in the forward pass.
#include <algorithm>
#include <array>
#include <mutex>
#include <utility>
#include <vector>

#include "common.h"

namespace regfast::soft_cross_entropy_autograd {
namespace {

using Forward = std::tuple<at::Tensor, at::Tensor>(const at::Tensor&, REGFAST_TARGET_PARAMETERS, bool);
using Backwards = at::Tensor(const at::Tensor&, const at::Tensor&, REGFAST_TARGET_PARAMETERS);
using Inplace = at::Tensor(at::Tensor&, REGFAST_TARGET_PARAMETERS);
using Remake = at::Tensor&(at::Tensor&, const at::Tensor&, const at::Tensor&, REGFAST_TARGET_PARAMETERS);
using StatsForward = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>(
    const at::Tensor&, REGFAST_TARGET_PARAMETERS, const MaybeTensor&, const MaybeTensor&, bool);
using StatsBackward = at::Tensor(const MaybeTensor&, const at::Tensor&, const at::Tensor&, REGFAST_TARGET_PARAMETERS);
using FeatureBackward = at::Tensor(const at::Tensor&, const at::Tensor&, const MaybeTensor&, const MaybeTensor&,
                                   const MaybeTensor&, int64_t);

const auto& forward_op() {
  static const auto handle = op<Forward>("regfast::soft_cross_entropy_forward");
  return handle;
}
const auto& backward_op() {
  static const auto handle = op<Backwards>("regfast::soft_cross_entropy_backward");
  return handle;
}
const auto& inplace_op() {
  static const auto handle = op<Inplace>("regfast::soft_cross_entropy_inplace");
  return handle;
}
const auto& remake_op() {
  static const auto handle = op<Remake>("regfast::soft_cross_entropy_remake_");
  return handle;
}
const auto& was_scaled_op() {
  static const auto handle = op<bool(const at::Tensor&)>("regfast::was_scaled");
  return handle;
}
const auto& stats_forward_op() {
  static const auto handle = op<StatsForward>("regfast::soft_cross_entropy_stats_forward");
  return handle;
}
const auto& stats_backward_op() {
  static const auto handle = op<StatsBackward>("regfast::soft_cross_entropy_stats_backward");
  return handle;
}
const auto& feature_backward_op() {
  static const auto handle = op<FeatureBackward>("regfast::feature_stats_backward");
  return handle;
}

// Rounded to float16 before a loss scale has reached it a gradient would lose its small entries. In a graph compiled for a
// GPU nobody sees that grad_output is 1: scaling a stored gradient costs more than making it anew.
bool stores(const at::Tensor& logits, int64_t backward, int64_t reduction) {
  if (backward != kAuto) return backward == kStore;
  return reduction != kNone && logits.scalar_type() != at::kHalf && !(logits.is_cuda() && traced(logits));
}

// Whether the gradient may take the logits' memory: no parameter's, in rows that don't overlap, and no view of a kind that
// autograd lets nobody write to.
bool owns_rows(const at::Tensor& logits) {
  if (traced(logits) || logits.is_leaf() || (logits.is_view() && logits._base().is_leaf())) return false;
  const auto* view = torch::autograd::impl::get_view_autograd_meta(logits);
  using torch::autograd::CreationMeta;
  if (view != nullptr && view->has_bw_view() && view->get_creation_meta() != CreationMeta::DEFAULT) return false;
  return logits.dim() == 2 && logits.stride(1) == 1 && (logits.size(0) <= 1 || logits.stride(0) >= logits.size(1));
}

// The tensor's memory with a version of its own, which nobody's writing changes.
at::Tensor unversioned(const at::Tensor& tensor) { return tensor.variable_data(); }

// The loss as a plain node, since torch::autograd::Function costs as much as a small loss. It keeps
// - the gradient for grad_output = 1, which is then multiplied; or
// - what the gradient is made of; or
// - both, on a GPU: where grad_output is not 1 the gradient is made anew, which moves no more bytes than multiplying and
//   gives the bits of a gradient that was never stored. Should its tensors have changed since, it is multiplied.
struct LossNode : torch::autograd::Node {
  using Saved = torch::autograd::SavedVariable;
  bool stored = false, remade = false;
  Saved grad;
  std::array<Saved, 8> inputs;  // logits, and the target's tensors
  std::vector<std::pair<c10::VariableVersion, uint32_t>> versions;  // of those, where the gradient is both
  Target numbers;

  void keep(const at::Tensor& logits, const Target& target) {
    const std::array<MaybeTensor, 8> given{logits,        target.first,     target.second,       target.lam,
                                           target.dense, target.smoothing, target.class_weight, target.sample_weight};
    for (size_t i = 0; i < given.size(); i++) {
      if (!given[i].has_value() || !given[i]->defined()) continue;
      if (remade) {
        const auto& version = torch::autograd::impl::version_counter(*given[i]);
        versions.emplace_back(version, version.current_version());
      }
      inputs[i] = Saved(remade ? unversioned(*given[i]) : *given[i], /*is_output=*/false);
    }
    numbers = {{}, {}, {}, target.lam_value, {}, {}, target.smoothing_value, {}, {}, target.ignore_index, target.reduction,
               target.index_target, target.z_loss};
  }

  // The logits and the whole target.
  std::pair<at::Tensor, Target> kept() {
    const auto maybe = [&](size_t i) {
      at::Tensor tensor = inputs[i].unpack();
      return tensor.defined() ? MaybeTensor(std::move(tensor)) : MaybeTensor();
    };
    Target target = numbers;
    target.first = maybe(1), target.second = maybe(2), target.lam = maybe(3), target.dense = maybe(4);
    target.smoothing = maybe(5), target.class_weight = maybe(6), target.sample_weight = maybe(7);
    return {inputs[0].unpack(), target};
  }

  bool changed() const {
    return std::any_of(versions.begin(), versions.end(), [](const auto& v) { return v.first.current_version() != v.second; });
  }

  variable_list apply(variable_list&& grads) override {
    check_once_differentiable();
    const at::Tensor& incoming = grads[0];
    if (!incoming.defined()) return {at::Tensor()};
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!stored) {
      const auto [logits, target] = kept();
      return {backward_op().call(incoming, logits, REGFAST_TARGET_OF(target))};
    }
    at::Tensor made = grad.unpack();
    if (!remade || traced(made) || traced(incoming) || changed()) return {rescaled(made, incoming)};
    const auto [logits, target] = kept();
    if (torch::autograd::get_current_graph_task_keep_graph()) {  // a copy would cost as much
      return {backward_op().call(incoming, logits, REGFAST_TARGET_OF(target))};
    }
    return {remake_op().call(made, incoming, logits, REGFAST_TARGET_OF(target))};
  }
  std::string name() const override { return "SoftCrossEntropyBackward"; }
  void release_variables() override {
    const std::lock_guard<std::mutex> lock(mutex_);
    grad.reset_data();
    for (auto& input : inputs) input.reset_data();
  }

  // The first overrides in later versions of torch, the second in 2.6.
  void compiled_args(torch::dynamo::autograd::CompiledNodeArgs& args) const { collect(*this, args); }
  void compiled_args(torch::dynamo::autograd::CompiledNodeArgs& args) { collect(*this, args); }
  template <class Self>
  static void collect(Self& node, torch::dynamo::autograd::CompiledNodeArgs& args) {
    args.collect(node.stored);
    args.collect(node.grad, false);
    for (auto& input : node.inputs) args.collect(input, false);
    const Target& t = node.numbers;
    args.collect(t.lam_value), args.collect(t.smoothing_value), args.collect(t.z_loss);
    args.collect(t.ignore_index), args.collect(t.reduction), args.collect(t.index_target);
  }
  variable_list apply_with_saved(const variable_list& grads, torch::dynamo::autograd::SwapSavedVariables& saved) override {
    saved.before(grad);
    for (auto& input : inputs) saved.before(input);
    variable_list out = apply(variable_list(grads));
    saved.after(grad);
    for (auto& input : inputs) saved.after(input);
    return out;
  }

  static at::Tensor loss_of(const at::Tensor& logits, const Target& target, bool inplace, int64_t backward) {
    auto* made = new LossNode;
    const auto node = owned(made);
    node->set_next_edges(torch::autograd::collect_next_edges(logits));
    made->stored = stores(logits, backward, target.reduction);
    inplace = inplace && made->stored && owns_rows(logits);
    // A dense target would be read again: there remaking moves more than multiplying.
    made->remade = made->stored && !inplace && far(logits) && !traced(logits) && !target.dense.has_value();
    if (made->remade && backward == kAuto && was_scaled_op().call(logits)) made->stored = made->remade = false;
    at::Tensor loss, grad;
    {
      at::AutoDispatchBelowADInplaceOrView below;
      if (inplace) {
        grad = logits.tensor_data();  // the same memory and version
        loss = inplace_op().call(grad, REGFAST_TARGET_OF(target));
        torch::autograd::impl::bump_version(logits);
        // A view's own node needs no values: autograd need not make another one for those that changed.
        auto* view = torch::autograd::impl::get_view_autograd_meta(logits);
        if (view != nullptr && view->has_bw_view()) view->set_attr_version(uint32_t(logits._version()));
      } else {
        std::tie(loss, grad) = forward_op().call(logits, REGFAST_TARGET_OF(target), made->stored);
      }
    }
    torch::autograd::set_history(loss, node);
    if (made->stored) made->grad = Saved(grad, /*is_output=*/false);
    if (!made->stored || made->remade) made->keep(logits, target);
    return loss;
  }
};

at::Tensor autograd(const at::Tensor& logits, REGFAST_TARGET_PARAMETERS, bool inplace, int64_t backward) {
  const Target target{REGFAST_TARGET_ARGUMENTS};
  check_devices(logits, target);
  if (wants_gradient(logits)) return LossNode::loss_of(logits, target, inplace, backward);
  at::AutoDispatchBelowADInplaceOrView below;
  return std::get<0>(forward_op().call(logits, REGFAST_TARGET_ARGUMENTS, false));
}

at::Tensor without_gradient(const at::Tensor& logits, REGFAST_TARGET_PARAMETERS, bool, int64_t) {
  check_devices(logits, {REGFAST_TARGET_ARGUMENTS});
  return std::get<0>(forward_op().call(logits, REGFAST_TARGET_ARGUMENTS, false));
}

void check_devices(const at::Tensor& logits, const MaybeTensor& features, const MaybeTensor& centers, const Target& target) {
  check_device(logits, features, "features"), check_device(logits, centers, "centers");
  check_devices(logits, target);
}

struct LossWithStats : torch::autograd::Function<LossWithStats> {
  // Outputs: loss, scalars, geometry, prediction.
  static variable_list forward(AutogradContext* ctx, at::Tensor logits, MaybeTensor features, const Target& target,
                               const MaybeTensor& centers, bool store, bool feature_grad) {
    at::AutoDispatchBelowADInplaceOrView below;
    const bool gradient = store && logits.requires_grad();
    auto [loss, grad, scalars, geometry, prediction, label] =
        stats_forward_op().call(logits, REGFAST_TARGET_OF(target), features, centers, gradient);
    // logits and their gradient if that is made; features, centers, label, prediction; target …
    keep(ctx, {logits.requires_grad() ? logits : at::Tensor(), gradient ? grad : at::Tensor(),
               feature_grad ? *features : at::Tensor(), feature_grad && centers.has_value() ? *centers : at::Tensor(),
               feature_grad ? label : at::Tensor(), feature_grad ? prediction : at::Tensor()},
         target);
    ctx->set_materialize_grads(false);
    variable_list constants{prediction};
    if (!feature_grad) constants.push_back(geometry);
    if (!logits.requires_grad()) constants.push_back(loss), constants.push_back(scalars);
    ctx->mark_non_differentiable(constants);
    return {loss, scalars, geometry, prediction};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    check_once_differentiable();
    const auto saved = ctx->get_saved_variables();
    const auto maybe = [](const at::Tensor& tensor) { return tensor.defined() ? MaybeTensor(tensor) : MaybeTensor(); };
    variable_list out(6);
    if (ctx->needs_input_grad(0) && (grads[0].defined() || grads[1].defined())) {
      const Target target = kept(ctx, saved, 6);
      if (grads[1].defined()) {
        out[0] = stats_backward_op().call(maybe(grads[0]), grads[1], saved[0], REGFAST_TARGET_OF(target));
      } else {
        out[0] = saved[1].defined() ? rescaled(saved[1], grads[0])
                                    : backward_op().call(grads[0], saved[0], REGFAST_TARGET_OF(target));
      }
    }
    if (saved[2].defined() && grads[2].defined()) {
      out[1] = feature_backward_op().call(grads[2], saved[2], maybe(saved[3]), saved[4], saved[5],
                                          ctx->saved_data["ignore_index"].toInt());
    }
    return out;
  }
};

using Stats = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

Stats stats_without_gradient(const at::Tensor& logits, REGFAST_TARGET_PARAMETERS, const MaybeTensor& features,
                             const MaybeTensor& centers, int64_t, bool) {
  check_devices(logits, features, centers, {REGFAST_TARGET_ARGUMENTS});
  auto [loss, grad, scalars, geometry, prediction, label] =
      stats_forward_op().call(logits, REGFAST_TARGET_ARGUMENTS, features, centers, false);
  return {loss, scalars, geometry, prediction};
}

Stats stats_autograd(const at::Tensor& logits, REGFAST_TARGET_PARAMETERS, const MaybeTensor& features,
                     const MaybeTensor& centers, int64_t backward, bool feature_grad) {
  const Target target{REGFAST_TARGET_ARGUMENTS};
  check_devices(logits, features, centers, target);
  feature_grad = feature_grad && features.has_value() && wants_gradient(*features);
  if (wants_gradient(logits) || feature_grad) {
    // Compiled, all outputs' gradients are asked for, which a stored one is no part of.
    const bool store = stores(logits, backward, reduction) && !traced(logits);
    auto out = LossWithStats::apply(logits, features, target, centers, store, feature_grad);
    return {out[0], out[1], out[2], out[3]};
  }
  at::AutoDispatchBelowADInplaceOrView below;
  return stats_without_gradient(logits, REGFAST_TARGET_ARGUMENTS, features, centers, backward, feature_grad);
}

at::Tensor meta_loss(const at::Tensor& logits, int64_t reduction) {
  const auto options = logits.options().dtype(logits.scalar_type() == at::kDouble ? at::kDouble : at::kFloat);
  return reduction == kNone ? at::empty_symint({logits.sym_size(0)}, options) : at::empty({}, options);
}

at::Tensor meta_grad(const at::Tensor& logits, bool gradient) {
  return gradient ? at::empty_symint(logits.sym_sizes(), logits.options()) : at::empty({0}, logits.options());
}

std::tuple<at::Tensor, at::Tensor> meta_forward(const at::Tensor& logits, REGFAST_TARGET_PARAMETERS, bool gradient) {
  return {meta_loss(logits, reduction), meta_grad(logits, gradient)};
}

at::Tensor meta_backward(const at::Tensor&, const at::Tensor& logits, REGFAST_TARGET_PARAMETERS) {
  return meta_grad(logits, true);
}

at::Tensor meta_stats_backward(const MaybeTensor&, const at::Tensor&, const at::Tensor& logits, REGFAST_TARGET_PARAMETERS) {
  return meta_grad(logits, true);
}

at::Tensor meta_inplace(at::Tensor& logits, REGFAST_TARGET_PARAMETERS) { return meta_loss(logits, reduction); }

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor> meta_stats_forward(
    const at::Tensor& logits, REGFAST_TARGET_PARAMETERS, const MaybeTensor& features, const MaybeTensor& centers,
    bool gradient) {
  const auto rows = logits.sym_size(0);
  const auto options = meta_loss(logits, kSum).options();
  const int64_t count = !features.has_value() ? 0 : (centers.has_value() ? 3 : 1);
  const auto classes = logits.options().dtype(at::kLong);
  return {meta_loss(logits, reduction),
          meta_grad(logits, gradient),
          at::empty_symint({5, rows}, options),
          at::empty_symint({count, rows}, options),
          at::empty_symint({rows}, classes),
          at::empty_symint({rows}, classes)};
}

}  // namespace

TORCH_LIBRARY_IMPL(regfast, Autograd, m) {
  m.impl("soft_cross_entropy", &autograd);
  m.impl("soft_cross_entropy_stats", &stats_autograd);
}

TORCH_LIBRARY_IMPL(regfast, CompositeExplicitAutograd, m) {
  m.impl("soft_cross_entropy", &without_gradient);
  m.impl("soft_cross_entropy_stats", &stats_without_gradient);
}

TORCH_LIBRARY_IMPL(regfast, Meta, m) {
  m.impl("soft_cross_entropy_forward", &meta_forward);
  m.impl("soft_cross_entropy_backward", &meta_backward);
  m.impl("soft_cross_entropy_inplace", &meta_inplace);
  m.impl("soft_cross_entropy_stats_forward", &meta_stats_forward);
  m.impl("soft_cross_entropy_stats_backward", &meta_stats_backward);
}

}  // namespace regfast::soft_cross_entropy_autograd
