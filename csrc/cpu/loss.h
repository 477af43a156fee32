// What the ops with a loss share on CPU tensors: checked arguments in the formats of the row kernels, and their run.
#pragma once

#include <ATen/core/Tensor.h>

#include "../target.h"

namespace regfast {

class LossJob {
 public:
  // Raises IndexError for labels outside [0, K) that are not ignore_index, ValueError for shapes that don't fit.
  LossJob(const at::Tensor& logits, const Target& target);
  // For logits (rows, classes) that come in chunks.
  LossJob(int64_t rows, int64_t classes, const at::TensorOptions& options, const Target& target);

  // Computes `losses`, `grad` and the statistics (where they are defined), for all rows.
  void run();
  // The same for the rows begin … begin + chunk.size(0) - 1, whose logits are `chunk`; the gradient goes to `chunk_grad`.
  void run(const at::Tensor& chunk, const at::Tensor& chunk_grad, int64_t begin);
  // `losses` reduced as the target says: 0-d or (B,).
  at::Tensor reduced() const;

  at::Tensor logits;       // columns adjacent
  at::Tensor losses;       // (B,) float32 or float64
  at::Tensor grad;         // where to write the gradient; undefined: not wanted
  at::Tensor grad_output;  // 0-d or (B,); undefined: 1
  at::Tensor scalars;      // (5, B): losses, log_partition, confidence, entropy, margin
  at::Tensor grad_scalars;  // of these, for `grad`; undefined: 0
  at::Tensor prediction, label;

 private:
  template <class T, class P>
  void run_as(const at::Tensor& chunk, const at::Tensor& chunk_grad, int64_t begin);
  void check_labels(const at::Tensor& labels, const char* name) const;
  bool ignored(int64_t row) const;
  void find_denominator();

  Target target_;
  int64_t rows_, classes_;
  at::ScalarType format_;
  at::Tensor first_, second_, lam_, dense_, class_weight_, sample_weight_;
  double smoothing_ = 0, class_weight_sum_ = 0, denominator_ = 1;
};

// See feature_stats_forward in registration.cpp; without centers rms alone, (1, B).
at::Tensor feature_geometry(const at::Tensor& features, const MaybeTensor& centers, const at::Tensor& labels,
                            const MaybeTensor& predictions, int64_t ignore_index);

}  // namespace regfast
