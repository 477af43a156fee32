// Soft-label cross-entropy on CUDA: the arguments, and what the target of a row comes to.
//
// Per row, with m = max z, S = Σ exp(z-m), Q = Σ q, dot = Σ q (z-m), lse = m + log S and the z-loss's coefficient c:
// loss = Q log S - dot + c lse², gradient = (Q + 2 c lse) exp(z-m)/S - q.
// S is kept as 1 + rest, so that neither log S nor Q/S - q loses the digits of a confident row.
#pragma once

#include "cuda_rows.cuh"

namespace regfast::cuda {

// q = (1-s)(λ e_first + (1-λ) e_second) + s/K, or (1-s) dense + s/K; times class weights. Rows have `columns` adjacent
// elements; a pointer that is null stands for what the comment says.
struct LossArguments {
  const void* logits;
  int64_t logits_stride;
  int64_t batch;
  int columns;
  const int64_t* first;     // null: dense
  const int64_t* second;    // null: λ = 1
  const void* dense;        // the type of the logits or float
  int64_t dense_stride;
  const float* lam;         // λ of each row (lam_stride 1) or of all (0); null: lam_value
  int lam_stride;
  float lam_value;
  const float* smoothing;   // one; null: smoothing_value
  float smoothing_value;
  const float* class_weight;  // null: 1
  const float* sample_weight;  // null: 1
  float z_loss;
  int64_t ignore_index;     // as first or second
  bool mean;                // divide loss and gradient by *denominator, or where that is null by the number of rows
  const float* denominator;
  bool count_rows;          // that number: of the rows that are not ignored, counted by every block; else `batch`
  const float* grad_output;  // of each row (grad_output_stride 1) or of all (0); null: 1
  int grad_output_stride;
  int* scaled;              // where a launch with one grad_output for all rows notes whether that is 1; null: nowhere
  bool unless_one;          // such a launch ends at once where it is 1: the gradient is there already
  float* losses;            // (batch); null: not wanted
  void* grad;               // rows of grad_stride, the type of the logits, may be logits itself; null: not wanted
  int64_t grad_stride;
  Total total;              // losses reduced, as `mean` says
};

// What a row's labels come to: q = a e_first + b e_second + u w.
struct Mixture {
  int first, second;
  float a, b, u;
  bool valid;
};

__device__ __forceinline__ float smoothing_of(const LossArguments& arguments) {
  return arguments.smoothing != nullptr ? *arguments.smoothing : arguments.smoothing_value;
}

__device__ __forceinline__ float class_weight_of(const LossArguments& arguments, int column) {
  return arguments.class_weight != nullptr ? __ldg(arguments.class_weight + column) : 1.0f;
}

// Of a row of an index or mixed target; what is no class is one of these.
struct Labels {
  static constexpr int kIgnored = -2, kInvalid = -1;
  int first, second;
};

__device__ __forceinline__ Labels labels_of(const LossArguments& arguments, int64_t row) {
  const int64_t first = __ldg(arguments.first + row);
  const int64_t second = arguments.second != nullptr ? __ldg(arguments.second + row) : first;
  const auto valid = [&](int64_t label) { return label >= 0 && label < arguments.columns; };
  if (first == arguments.ignore_index || second == arguments.ignore_index) return {Labels::kIgnored, 0};
  if (!valid(first) || !valid(second)) return {Labels::kInvalid, 0};
  return {static_cast<int>(first), static_cast<int>(second)};
}

__device__ __forceinline__ bool is_ignored(const Labels& labels) { return labels.first == Labels::kIgnored; }

// Of a row that is not ignored; its labels are not read where the target is dense.
__device__ __forceinline__ Mixture mixture_of(const LossArguments& arguments, int64_t row, const Labels& labels, float s) {
  Mixture mixture{0, 0, 0.0f, 0.0f, s / static_cast<float>(arguments.columns), true};
  if (arguments.first == nullptr) return mixture;
  mixture.valid = labels.first >= 0;
  if (!mixture.valid) return mixture;  // the labels stay 0: never an offset out of bounds
  mixture.first = labels.first;
  mixture.second = labels.second;
  float mix = 1.0f;
  if (arguments.second != nullptr) {
    mix = arguments.lam != nullptr ? arguments.lam[row * arguments.lam_stride] : arguments.lam_value;
  }
  mixture.a = (1.0f - s) * mix * class_weight_of(arguments, mixture.first);
  mixture.b = (1.0f - s) * (1.0f - mix) * class_weight_of(arguments, mixture.second);
  return mixture;
}

// For the whole block at once: 1 over what a mean divides by.
__device__ __forceinline__ float scale_of(const LossArguments& arguments) {
  if (!arguments.mean) return 1.0f;
  if (arguments.denominator != nullptr) return 1.0f / *arguments.denominator;
  if (!arguments.count_rows) return 1.0f / static_cast<float>(arguments.batch);
  float count = 0.0f;
#pragma unroll 8
  for (int64_t row = threadIdx.x; row < arguments.batch; row += blockDim.x) {
    count += is_ignored(labels_of(arguments, row)) ? 0.0f : 1.0f;
  }
  return 1.0f / sum_block(count);
}

// For every thread of a launch: whether nothing is left to do. Notes what `scaled` wants to know.
__device__ __forceinline__ bool is_done(const LossArguments& arguments) {
  if (arguments.grad_output == nullptr || arguments.grad_output_stride != 0) return false;
  const bool one = *arguments.grad_output == 1.0f;
  if (arguments.scaled != nullptr && blockIdx.x == 0 && threadIdx.x == 0) *arguments.scaled = one ? 0 : 1;
  return one && arguments.unless_one;
}

// What a row's gradient is multiplied by.
__device__ __forceinline__ float factor_of(const LossArguments& arguments, int64_t row, float scale) {
  float factor = scale;
  if (arguments.sample_weight != nullptr) factor *= arguments.sample_weight[row];
  if (arguments.grad_output != nullptr) factor *= arguments.grad_output[row * arguments.grad_output_stride];
  return factor;
}

__device__ __forceinline__ float finished_loss(const LossArguments& arguments, int64_t row, const Mixture& mixture,
                                               float loss) {
  if (!mixture.valid) return NAN;
  return arguments.sample_weight != nullptr ? loss * arguments.sample_weight[row] : loss;
}

// coefficient * factor, where a coefficient of 0 wins over an infinite factor.
__device__ __forceinline__ float product(float coefficient, float factor) {
  return coefficient == 0.0f ? 0.0f : coefficient * factor;
}

// What the z-loss adds to a row's loss, and to the pull Q of the softmax on its gradient.
struct Penalty {
  float loss, pull;
};

__device__ __forceinline__ Penalty penalty_of(const LossArguments& arguments, float log_partition) {
  if (arguments.z_loss == 0.0f) return {0.0f, 0.0f};
  const float slope = arguments.z_loss * log_partition;
  return {slope * log_partition, 2.0f * slope};
}

// Σ exp(z-m) of some logits, those that equal m apart: S = 1 + rest exactly, however small the rest is.
struct Exponentials {
  float below = 0.0f, largest = 0.0f;

  __device__ __forceinline__ void add(float shifted, float exponential) {
    const bool top = shifted >= 0.0f;  // NaN is not
    below += top ? 0.0f : exponential;
    largest += top ? 1.0f : 0.0f;
  }
};

__device__ __forceinline__ float rest_of(float below, float largest) { return below + (largest - 1.0f); }

// (pull e / S - q) · factor for S = 1 + rest; `scale` is factor / S.
__device__ __forceinline__ float gradient_of(float e, float q, float pull, float rest, float scale) {
  return fmaf(-q, rest, fmaf(pull, e, -q)) * scale;
}

}  // namespace regfast::cuda
