// objective on CPU tensors.
#include "../include/objective.h"

#include <ATen/Parallel.h>
#include <torch/library.h>

#include <memory>
#include <optional>

#include "formats.h"

namespace regfast {

#define ROWS(T)                                                                                      \
  REGFAST_CLONES void objective_rows_##T(const Objective<T>& call, int64_t begin, int64_t end) {     \
    for (int64_t row = begin; row < end; row++) objectives::one_row(call, row);                      \
  }                                                                                                  \
  template <>                                                                                        \
  void objective_rows<T>(const Objective<T>& call, int64_t begin, int64_t end) {                     \
    objective_rows_##T(call, begin, end);                                                            \
  }

ROWS(float)
ROWS(double)
ROWS(bf16)
ROWS(fp16)

namespace {

ObjectiveKind kind_of(std::string_view name) {
  if (name == "ce") return ObjectiveKind::kCrossEntropy;
  if (name == "margin") return ObjectiveKind::kMargin;
  if (name == "dlr") return ObjectiveKind::kLogitRatio;
  if (name == "probability-margin") return ObjectiveKind::kProbabilityMargin;
  TORCH_CHECK_VALUE(false, "kind must be ce, margin, dlr or probability-margin, or one of them and -targeted, got ", name);
}

at::Tensor checked(const at::Tensor& given, int64_t rows, int64_t classes, const char* name) {
  const at::Tensor labels = as(given, at::kLong);
  TORCH_CHECK_VALUE(labels.dim() == 1 && labels.size(0) == rows, name, " must be (B,) = (", rows, ",), got ",
                    labels.sizes());
  const int64_t* at = labels.const_data_ptr<int64_t>();
  for (int64_t row = 0; row < rows; row++) {
    TORCH_CHECK_INDEX(at[row] >= 0 && at[row] < classes, name, "[", row, "] is ", at[row], ", expected a class in [0, ",
                      classes, ")");
  }
  return labels;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> objective(const at::Tensor& logits_, const at::Tensor& labels_,
                                                         std::string_view name, const std::optional<at::Tensor>& targets_) {
  TORCH_CHECK_VALUE(logits_.dim() == 2, "logits must be (B, K), got ", logits_.sizes());
  constexpr std::string_view kSuffix = "-targeted";
  const bool targeted = name.size() > kSuffix.size() && name.substr(name.size() - kSuffix.size()) == kSuffix;
  const auto kind = kind_of(targeted ? name.substr(0, name.size() - kSuffix.size()) : name);
  TORCH_CHECK_VALUE(!targeted || targets_.has_value(), "a targeted kind needs targets");
  const at::Tensor logits = adjacent_columns(logits_);
  const int64_t rows = logits.size(0), classes = logits.size(1);
  const int64_t least = kind == ObjectiveKind::kLogitRatio ? (targeted ? 4 : 3)
                        : kind == ObjectiveKind::kCrossEntropy || targeted ? 1 : 2;
  TORCH_CHECK_VALUE(classes >= least || rows == 0, name, " needs at least ", least, " classes, logits have ", classes);
  const at::Tensor labels = checked(labels_, rows, classes, "labels");
  const at::Tensor targets = targeted ? checked(*targets_, rows, classes, "targets") : at::Tensor();

  const at::Tensor loss = at::empty({rows}, logits.options().dtype(accumulator_type(logits)));
  const at::Tensor prediction = at::empty({rows}, logits.options().dtype(at::kLong));
  const at::Tensor gradient = at::empty({rows, classes}, logits.options());
  with_format(logits, "logits", [&](auto format) {
    using T = decltype(format);
    using A = Accumulator<T>;
    Objective<T> call;
    call.kind = kind;
    call.targeted = targeted;
    call.classes = classes;
    call.logits = pointer<T>(logits);
    call.logits_stride = logits.stride(0);
    call.labels = pointer<int64_t>(labels);
    call.targets = pointer<int64_t>(targets);
    call.loss = pointer<A>(loss);
    call.prediction = pointer<int64_t>(prediction);
    call.gradient = pointer<T>(gradient);
    at::parallel_for(0, rows, grain(classes), [&](int64_t from, int64_t to) {
      Objective<T> mine = call;
      const std::unique_ptr<A[]> scratch(new A[classes]);
      mine.scratch = scratch.get();
      objective_rows(mine, from, to);
    });
  });
  return {loss, prediction, gradient};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> meta(const at::Tensor& logits, const at::Tensor&, std::string_view,
                                                    const std::optional<at::Tensor>&) {
  const auto type = logits.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const auto rows = logits.sym_size(0);
  return {at::empty_symint({rows}, logits.options().dtype(type)),
          at::empty_symint({rows}, logits.options().dtype(at::kLong)),
          at::empty_symint(logits.sym_sizes(), logits.options())};
}

}  // namespace

TORCH_LIBRARY_IMPL(regfast, CPU, m) { m.impl("objective", &objective); }
TORCH_LIBRARY_IMPL(regfast, Meta, m) { m.impl("objective", &meta); }

}  // namespace regfast
