// feature_stats on CPU tensors.
#include "../include/feature_stats.h"

#include <ATen/Parallel.h>
#include <torch/library.h>

#include "formats.h"
#include "loss.h"

namespace regfast {

#define ROWS(T)                                                                                              \
  REGFAST_CLONES void feature_rows_##T(const FeatureStats<T>& call, int64_t begin, int64_t end) {            \
    features::forward(call, begin, end);                                                                     \
  }                                                                                                          \
  REGFAST_CLONES void feature_gradient_rows_##T(const FeatureStats<T>& call, int64_t begin, int64_t end) {   \
    features::backward(call, begin, end);                                                                    \
  }                                                                                                          \
  template <>                                                                                                \
  void feature_stats_rows<T>(const FeatureStats<T>& call, int64_t begin, int64_t end) {                      \
    feature_rows_##T(call, begin, end);                                                                      \
  }                                                                                                          \
  template <>                                                                                                \
  void feature_stats_gradient_rows<T>(const FeatureStats<T>& call, int64_t begin, int64_t end) {             \
    feature_gradient_rows_##T(call, begin, end);                                                             \
  }

ROWS(float)
ROWS(double)
ROWS(bf16)
ROWS(fp16)

namespace {

// The arguments of both passes, checked and in the kernels' formats.
struct Job {
  at::Tensor features, centers, labels, predictions;
  int64_t ignore_index;

  Job(const at::Tensor& features_, const MaybeTensor& centers_, const MaybeTensor& labels_,
      const MaybeTensor& predictions_, int64_t ignore_index_)
      : features(features_), ignore_index(ignore_index_) {
    TORCH_CHECK_VALUE(features.dim() == 2, "features must be (B, d), got ", features.sizes());
    features = adjacent_columns(features);
    if (!centers_.has_value()) return;
    TORCH_CHECK_VALUE(centers_->dim() == 2 && centers_->size(1) == features.size(1), "centers must be (K, ",
                      features.size(1), "), got ", centers_->sizes());
    TORCH_CHECK_VALUE(labels_.has_value(), "centers need labels");
    centers = as(*centers_, accumulator_type(features));
    labels = checked(*labels_, "labels", true);
    if (predictions_.has_value()) predictions = checked(*predictions_, "predictions", false);
  }

  at::Tensor checked(const at::Tensor& given, const char* name, bool may_be_ignored) const {
    const at::Tensor classes = as(given, at::kLong);
    TORCH_CHECK_VALUE(classes.dim() == 1 && classes.size(0) == features.size(0), name, " must be (B,) = (",
                      features.size(0), ",), got ", classes.sizes());
    const int64_t* at = classes.const_data_ptr<int64_t>();
    for (int64_t row = 0; row < classes.size(0); row++) {
      TORCH_CHECK_INDEX((at[row] >= 0 && at[row] < centers.size(0)) || (may_be_ignored && at[row] == ignore_index),
                        name, ": class ", at[row], " of row ", row, " is out of range [0, ", centers.size(0), ")");
    }
    return classes;
  }

  // geometry: rows are rms, cosine, cosine_predicted, as many as there are.
  template <class T>
  void run(const at::Tensor& geometry, const at::Tensor& grad) const {
    using A = Accumulator<T>;
    FeatureStats<T> call;
    call.width = features.size(1);
    call.features = pointer<T>(features);
    call.features_stride = features.stride(0);
    call.centers = pointer<A>(centers);
    call.labels = pointer<int64_t>(labels);
    call.predictions = pointer<int64_t>(predictions);
    call.ignore_index = ignore_index;
    A* values = pointer<A>(geometry);
    const int64_t count = geometry.size(0), rows = features.size(0);
    call.rms = count > 0 ? values : nullptr;
    call.cosine = count > 1 ? values + rows : nullptr;
    call.cosine_predicted = count > 2 ? values + 2 * rows : nullptr;
    if (grad.defined()) {
      call.grad = pointer<T>(grad);
      call.grad_stride = grad.stride(0);
    }
    at::parallel_for(0, rows, grain(call.width), [&](int64_t from, int64_t to) {
      if (grad.defined()) feature_stats_gradient_rows(call, from, to);
      else feature_stats_rows(call, from, to);
    });
  }

  void run(const at::Tensor& geometry, const at::Tensor& grad) const {
    if (features.size(0) == 0) return;
    with_format(features, "features", [&](auto format) { run<decltype(format)>(geometry, grad); });
  }
};

at::Tensor forward(const at::Tensor& features, const at::Tensor& centers, const at::Tensor& labels,
                   const MaybeTensor& predictions, int64_t ignore_index) {
  return feature_geometry(features, centers, labels, predictions, ignore_index);
}

at::Tensor backward(const at::Tensor& grad_output, const at::Tensor& features, const MaybeTensor& centers,
                    const MaybeTensor& labels, const MaybeTensor& predictions, int64_t ignore_index) {
  const Job job(features, centers, labels, predictions, ignore_index);
  const int64_t most = !centers.has_value() ? 1 : (predictions.has_value() ? 3 : 2);
  TORCH_CHECK_VALUE(grad_output.dim() == 2 && grad_output.size(0) <= most && grad_output.size(1) == features.size(0),
                    "grad_output must be (", most, ", B), got ", grad_output.sizes());
  const at::Tensor grad = at::empty(features.sizes(), features.options());
  job.run(as(grad_output, accumulator_type(features)), grad);
  return grad;
}

}  // namespace

at::Tensor feature_geometry(const at::Tensor& features, const MaybeTensor& centers, const at::Tensor& labels,
                            const MaybeTensor& predictions, int64_t ignore_index) {
  const Job job(features, centers, labels, predictions, ignore_index);
  const int64_t count = !centers.has_value() ? 1 : (predictions.has_value() ? 3 : 2);
  const at::Tensor geometry =
      at::empty({count, features.size(0)}, features.options().dtype(accumulator_type(features)));
  job.run(geometry, at::Tensor());
  return geometry;
}

TORCH_LIBRARY_IMPL(regfast, CPU, m) {
  m.impl("feature_stats_forward", &forward);
  m.impl("feature_stats_backward", &backward);
}

}  // namespace regfast
