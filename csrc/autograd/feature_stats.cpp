// feature_stats: autograd and Meta kernels.
#include "common.h"

namespace regfast::feature_stats_autograd {
namespace {

using Forward = at::Tensor(const at::Tensor&, const at::Tensor&, const at::Tensor&, const MaybeTensor&, int64_t);
using Backwards = at::Tensor(const at::Tensor&, const at::Tensor&, const MaybeTensor&, const MaybeTensor&,
                             const MaybeTensor&, int64_t);

const auto& forward_op() {
  static const auto handle = op<Forward>("regfast::feature_stats_forward");
  return handle;
}
const auto& backward_op() {
  static const auto handle = op<Backwards>("regfast::feature_stats_backward");
  return handle;
}

struct Geometry : torch::autograd::Function<Geometry> {
  static at::Tensor forward(AutogradContext* ctx, at::Tensor features, const at::Tensor& centers,
                            const at::Tensor& labels, const MaybeTensor& predictions, int64_t ignore_index) {
    at::AutoDispatchBelowADInplaceOrView below;
    ctx->save_for_backward({features, centers.detach(), labels, predictions.value_or(at::Tensor())});
    ctx->saved_data["ignore_index"] = ignore_index;
    return forward_op().call(features, centers, labels, predictions, ignore_index);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    check_once_differentiable();
    const auto saved = ctx->get_saved_variables();
    const MaybeTensor predictions = saved[3].defined() ? MaybeTensor(saved[3]) : MaybeTensor();
    at::Tensor grad = backward_op().call(grads[0], saved[0], saved[1], saved[2], predictions,
                                         ctx->saved_data["ignore_index"].toInt());
    return {grad, {}, {}, {}, {}};
  }
};

at::Tensor autograd(const at::Tensor& features, const at::Tensor& centers, const at::Tensor& labels,
                    const MaybeTensor& predictions, int64_t ignore_index) {
  if (wants_gradient(features)) return Geometry::apply(features, centers, labels, predictions, ignore_index);
  at::AutoDispatchBelowADInplaceOrView below;
  return forward_op().call(features, centers, labels, predictions, ignore_index);
}

at::Tensor without_gradient(const at::Tensor& features, const at::Tensor& centers, const at::Tensor& labels,
                            const MaybeTensor& predictions, int64_t ignore_index) {
  return forward_op().call(features, centers, labels, predictions, ignore_index);
}

at::Tensor meta_forward(const at::Tensor& features, const at::Tensor&, const at::Tensor&,
                        const MaybeTensor& predictions, int64_t) {
  const auto type = features.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  return at::empty_symint({predictions.has_value() ? 3 : 2, features.sym_size(0)}, features.options().dtype(type));
}

at::Tensor meta_backward(const at::Tensor&, const at::Tensor& features, const MaybeTensor&, const MaybeTensor&,
                         const MaybeTensor&, int64_t) {
  return at::empty_symint(features.sym_sizes(), features.options());
}

}  // namespace

TORCH_LIBRARY_IMPL(regfast, Autograd, m) { m.impl("feature_stats", &autograd); }

TORCH_LIBRARY_IMPL(regfast, CompositeExplicitAutograd, m) { m.impl("feature_stats", &without_gradient); }

TORCH_LIBRARY_IMPL(regfast, Meta, m) {
  m.impl("feature_stats_forward", &meta_forward);
  m.impl("feature_stats_backward", &meta_backward);
}

}  // namespace regfast::feature_stats_autograd
