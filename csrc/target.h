// The arguments that say what the target is and how losses are weighted and reduced: the same in every op that has a loss.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

namespace regfast {

enum Reduction : int64_t { kNone = 0, kMean = 1, kSum = 2 };
enum Backward : int64_t { kAuto = 0, kStore = 1, kRecompute = 2 };

using MaybeTensor = std::optional<at::Tensor>;

struct Target {
  MaybeTensor first, second, lam;
  double lam_value = 1;
  MaybeTensor dense, smoothing;
  double smoothing_value = 0;
  MaybeTensor class_weight, sample_weight;
  int64_t ignore_index = -100, reduction = kMean;
  bool index_target = false;
  double z_loss = 0;
};

}  // namespace regfast

// In the order of the schemas (registration.cpp), and of Target's members.
#define REGFAST_TARGET_PARAMETERS                                                                                     \
  const ::regfast::MaybeTensor &first, const ::regfast::MaybeTensor &second, const ::regfast::MaybeTensor &lam,       \
      double lam_value, const ::regfast::MaybeTensor &dense, const ::regfast::MaybeTensor &smoothing,                 \
      double smoothing_value, const ::regfast::MaybeTensor &class_weight, const ::regfast::MaybeTensor &sample_weight,\
      int64_t ignore_index, int64_t reduction, bool index_target, double z_loss
#define REGFAST_TARGET_ARGUMENTS                                                                                      \
  first, second, lam, lam_value, dense, smoothing, smoothing_value, class_weight, sample_weight, ignore_index,        \
      reduction, index_target, z_loss
#define REGFAST_TARGET_OF(t)                                                                                          \
  (t).first, (t).second, (t).lam, (t).lam_value, (t).dense, (t).smoothing, (t).smoothing_value, (t).class_weight,     \
      (t).sample_weight, (t).ignore_index, (t).reduction, (t).index_target, (t).z_loss
