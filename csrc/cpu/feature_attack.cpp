// feature_attack on CPU tensors.
#include "../include/feature_attack.h"

#include <ATen/Parallel.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <memory>

namespace regfast {
namespace {

REGFAST_CLONES void feature_attack_rows(const FeatureAttack& call, int64_t begin, int64_t end) {
  for (int64_t at = begin; at < end; at++) feature_attack::row(call, at);
}

at::Tensor feature_attack_cpu(const at::Tensor& logits, const at::Tensor& rows, const at::Tensor& labels,
                              const at::Tensor& eps, const at::Tensor& step_size, int64_t steps, bool linf, bool margin) {
  const int64_t count = logits.size(0), classes = rows.size(0), width = rows.size(1);
  TORCH_CHECK_VALUE(logits.dim() == 2 && rows.dim() == 2 && logits.size(1) == classes && classes > 1,
                    "logits must be (B, K) and rows (K, n) with K > 1, got ", logits.sizes(), " and ", rows.sizes());
  for (const auto& tensor : {&labels, &eps, &step_size}) {
    TORCH_CHECK_VALUE(tensor->dim() == 1 && tensor->size(0) == count, "labels, eps and step_size must be (B,) = (", count,
                      ",), got ", tensor->sizes());
  }
  const at::Tensor z = logits.to(at::kDouble).contiguous(), w = rows.to(at::kDouble).contiguous();
  const at::Tensor transposed = w.t().contiguous(), classes_of = labels.to(at::kLong).contiguous();
  const at::Tensor radius = eps.to(at::kDouble).contiguous(), size = step_size.to(at::kDouble).contiguous();
  for (int64_t at = 0; at < count; at++) {
    const int64_t label = classes_of.const_data_ptr<int64_t>()[at];
    TORCH_CHECK_INDEX(label >= 0 && label < classes, "labels: class ", label, " of row ", at, " is out of range [0, ",
                      classes, ")");
  }
  at::Tensor delta = at::zeros({count, width}, z.options());
  FeatureAttack call{classes, width, steps, z.const_data_ptr<double>(), w.const_data_ptr<double>(),
                     transposed.const_data_ptr<double>(), classes_of.const_data_ptr<int64_t>(),
                     radius.const_data_ptr<double>(), size.const_data_ptr<double>(), linf, margin,
                     delta.data_ptr<double>(), nullptr};
  at::parallel_for(0, count, 16, [&](int64_t begin, int64_t end) {
    FeatureAttack mine = call;
    const std::unique_ptr<double[]> scratch(new double[2 * classes + width]);
    mine.scratch = scratch.get();
    feature_attack_rows(mine, begin, end);
  });
  return delta;
}

}  // namespace

TORCH_LIBRARY_IMPL(regfast, CPU, m) { m.impl("feature_attack", &feature_attack_cpu); }

}  // namespace regfast
