#include "loss.h"

#include <ATen/Parallel.h>

#include <memory>
#include <type_traits>

#include "../include/soft_cross_entropy.h"
#include "formats.h"
#include "over_rows.h"

namespace regfast {
namespace {

// λ or smoothing: from the tensor if there is one, else the number.
double number(const MaybeTensor& tensor, double value) { return tensor.has_value() ? tensor->item<double>() : value; }

const at::Tensor& two_dimensional(const at::Tensor& logits) {
  TORCH_CHECK_VALUE(logits.dim() == 2, "logits must be (B, K), got ", logits.sizes());
  return logits;
}

}  // namespace

LossJob::LossJob(const at::Tensor& logits_, const Target& target)
    : LossJob(two_dimensional(logits_).size(0), logits_.size(1), logits_.options(), target) {
  logits = adjacent_columns(logits_);
}

LossJob::LossJob(int64_t rows, int64_t classes, const at::TensorOptions& options, const Target& target)
    : target_(target), rows_(rows), classes_(classes), format_(c10::typeMetaToScalarType(options.dtype())) {
  TORCH_CHECK_VALUE(classes_ > 0 || rows_ == 0, "logits must have at least one class, got (", rows_, ", 0)");
  const auto type = format_ == at::kDouble ? at::kDouble : at::kFloat;
  losses = at::empty({rows_}, options.dtype(type));
  smoothing_ = number(target.smoothing, target.smoothing_value);
  const auto checked = [&](const at::Tensor& tensor, const char* name) {
    TORCH_CHECK_VALUE(tensor.dim() == 1 && tensor.size(0) == rows_, name, " must be (B,) = (", rows_, ",), got ",
                      tensor.sizes());
    return tensor;
  };
  if (target.class_weight.has_value()) {
    TORCH_CHECK_VALUE(target.class_weight->dim() == 1 && target.class_weight->size(0) == classes_,
                      "class_weight must be (K,) = (", classes_, ",), got ", target.class_weight->sizes());
    class_weight_ = as(*target.class_weight, type);
    class_weight_sum_ = class_weight_.sum(at::kDouble).item<double>();
  } else {
    class_weight_sum_ = double(classes_);
  }
  if (target.sample_weight.has_value()) sample_weight_ = as(checked(*target.sample_weight, "sample_weight"), type);
  if (target.dense.has_value()) {
    const auto& q = *target.dense;
    TORCH_CHECK_VALUE(q.dim() == 2 && q.size(0) == rows_ && q.size(1) == classes_, "a dense target must be (", rows_,
                      ", ", classes_, ") as the logits are, got ", q.sizes());
    const bool served = q.scalar_type() == type || q.scalar_type() == format_;
    dense_ = adjacent_columns(served ? q : q.to(type));
  } else {
    TORCH_CHECK_VALUE(target.first.has_value(), "either first or dense must be given");
    first_ = as(checked(*target.first, "first"), at::kLong);
    second_ = first_;
    if (target.second.has_value()) {
      second_ = as(checked(*target.second, "second"), at::kLong);
      lam_ = target.lam.has_value() ? as(*target.lam, type) : at::scalar_tensor(target.lam_value, losses.options());
      TORCH_CHECK_VALUE(lam_.numel() == 1 || (lam_.dim() == 1 && lam_.size(0) == rows_), "lam must be a number or (B,) = (",
                        rows_, ",), got ", lam_.sizes());
      check_labels(second_, "second");
    }
    check_labels(first_, "first");
  }
  if (target.reduction == kMean) find_denominator();
}

void LossJob::check_labels(const at::Tensor& labels, const char* name) const {
  const int64_t *at = pointer<int64_t>(labels), *first = pointer<int64_t>(first_), *second = pointer<int64_t>(second_);
  if (labels_in_range(at, first, second, rows_, classes_, target_.ignore_index)) return;
  for (int64_t row = 0; row < rows_; row++) {
    TORCH_CHECK_INDEX((at[row] >= 0 && at[row] < classes_) || ignored(row), name, " label ", at[row], " of row ", row,
                      " is out of range: it must lie in [0, ", classes_, ") or be ignore_index ", target_.ignore_index);
  }
}

bool LossJob::ignored(int64_t row) const {
  return first_.defined() && (pointer<int64_t>(first_)[row] == target_.ignore_index ||
                              pointer<int64_t>(second_)[row] == target_.ignore_index);
}

void LossJob::find_denominator() {
  if (!sample_weight_.defined() && !(target_.index_target && class_weight_.defined())) {
    const int64_t *first = pointer<int64_t>(first_), *second = pointer<int64_t>(second_);
    denominator_ = double(first == nullptr ? rows_ : count_others(first, second, rows_, target_.ignore_index));
    return;
  }
  const auto total = [&](auto zero) {
    using A = decltype(zero);
    const A* sample = pointer<A>(sample_weight_);
    const A* w = target_.index_target ? pointer<A>(class_weight_) : nullptr;
    const int64_t* label = pointer<int64_t>(first_);
    double sum = 0;
    for (int64_t row = 0; row < rows_; row++) {
      if (ignored(row)) continue;
      sum += (sample == nullptr ? 1.0 : double(sample[row])) * (w == nullptr ? 1.0 : double(w[label[row]]));
    }
    return sum;
  };
  denominator_ = losses.scalar_type() == at::kDouble ? total(double()) : total(float());
}

at::Tensor LossJob::reduced() const {
  if (target_.reduction == kNone) return losses;
  const double total = losses.scalar_type() == at::kDouble ? sum_double(losses.const_data_ptr<double>(), rows_)
                                                           : sum_float(losses.const_data_ptr<float>(), rows_);
  return at::scalar_tensor(total / denominator_, losses.options());
}

void LossJob::run() { run(logits, grad, 0); }

void LossJob::run(const at::Tensor& chunk, const at::Tensor& chunk_grad, int64_t begin) {
  if (chunk.size(0) == 0) return;
  const bool wide = dense_.defined() && dense_.scalar_type() == at::kFloat;
  switch (chunk.scalar_type()) {
    case at::kFloat: return run_as<float, float>(chunk, chunk_grad, begin);
    case at::kDouble: return run_as<double, double>(chunk, chunk_grad, begin);
    case at::kBFloat16:
      return wide ? run_as<bf16, float>(chunk, chunk_grad, begin) : run_as<bf16, bf16>(chunk, chunk_grad, begin);
    case at::kHalf:
      return wide ? run_as<fp16, float>(chunk, chunk_grad, begin) : run_as<fp16, fp16>(chunk, chunk_grad, begin);
    default: TORCH_CHECK_TYPE(false, "logits must be float32, bfloat16, float16 or float64, got ", chunk.dtype());
  }
}

template <class T, class P>
void LossJob::run_as(const at::Tensor& chunk, const at::Tensor& chunk_grad, int64_t begin) {
  using A = Accumulator<T>;
  const auto from_row = [begin](auto* values) { return values == nullptr ? values : values + begin; };
  SoftCrossEntropy<T, P> call;
  call.classes = classes_;
  call.logits = pointer<T>(chunk);
  call.logits_stride = chunk.stride(0);
  if (dense_.defined()) {
    call.dense_stride = dense_.stride(0);
    call.dense = pointer<P>(dense_) + begin * call.dense_stride;
  }
  call.first = from_row(pointer<int64_t>(first_));
  if (target_.second.has_value()) call.second = from_row(pointer<int64_t>(second_));
  call.lam_stride = lam_.defined() && lam_.dim() == 1 ? 1 : 0;
  call.lam = pointer<A>(lam_);
  if (call.lam_stride == 1) call.lam += begin;
  call.smoothing = smoothing_;
  call.ignore_index = target_.ignore_index;
  call.class_weight = pointer<A>(class_weight_);
  call.class_weight_sum = class_weight_sum_;
  call.z_loss = target_.z_loss;
  call.sample_weight = from_row(pointer<A>(sample_weight_));
  call.loss = pointer<A>(losses) + begin;
  if (scalars.defined()) {
    A* stats = pointer<A>(scalars) + begin;
    call.stats = true;
    call.log_partition = stats + rows_;
    call.confidence = stats + 2 * rows_;
    call.entropy = stats + 3 * rows_;
    call.margin = stats + 4 * rows_;
    call.prediction = pointer<int64_t>(prediction) + begin;
    call.label = pointer<int64_t>(label) + begin;
  }
  if (grad_scalars.defined()) {
    call.stats = true;
    call.grad_statistics = pointer<A>(grad_scalars) + begin;
    call.statistics = rows_;
  }
  const A one = A(1 / denominator_);
  at::Tensor scales;
  if (chunk_grad.defined()) {
    call.grad = pointer<T>(chunk_grad);
    call.grad_stride = chunk_grad.stride(0);
    call.grad_scale = &one;
    if (grad_output.defined()) {
      scales = as(grad_output, losses.scalar_type()).div(denominator_);
      call.grad_scale_stride = scales.dim() == 0 ? 0 : 1;
      call.grad_scale = pointer<A>(scales) + call.grad_scale_stride * begin;
    }
  }
  at::parallel_for(0, chunk.size(0), grain(classes_), [&](int64_t from, int64_t to) {
    SoftCrossEntropy<T, P> mine = call;
    const std::unique_ptr<A[]> scratch(new A[classes_]);
    mine.scratch = scratch.get();
    if (dense_.defined()) {
      dense_target_rows(mine, from, to);
    } else if constexpr (std::is_same_v<T, P>) {
      sparse_target_rows(mine, from, to);
    }
  });
}

}  // namespace regfast
