// Soft-label cross-entropy on CUDA: its launches, on `stream` of the current device. Each returns what the runtime says.
#pragma once

#include "cuda_soft_cross_entropy_long.cuh"
#include "cuda_soft_cross_entropy_short.cuh"

namespace regfast::cuda {

// Σ sample_weight · class_weight[first] over the rows that are not ignored, either weight being optional.
static __global__ void __launch_bounds__(256)
    denominator_kernel(const LossArguments arguments, bool by_label, Total total) {
  float sum = 0.0f;
#pragma unroll 4
  for (int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; row < arguments.batch;
       row += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    float w = arguments.sample_weight != nullptr ? arguments.sample_weight[row] : 1.0f;
    if (arguments.first != nullptr) {
      const Labels labels = labels_of(arguments, row);
      if (by_label && arguments.class_weight != nullptr) {
        w *= labels.first >= 0 ? arguments.class_weight[labels.first] : 0.0f;
      }
      if (is_ignored(labels)) w = 0.0f;
    }
    sum += w;
  }
  add_to_total(total, sum_block(sum), blockIdx.x, gridDim.x, 1.0f);
}

// grad *= *grad_output, without touching grad where that is 1. What is 0, as ignored rows are, stays 0 under infinity.
template <typename T>
__global__ void __launch_bounds__(256) rescale_kernel(T* grad, const float* grad_output, int64_t size) {
  const float scale = *grad_output;
  if (scale == 1.0f) return;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x * kPerVector<T>;
  int64_t at = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * kPerVector<T>;
  const bool aligned = is_aligned(grad);
  for (; at < size; at += stride) {
    if (aligned && at + kPerVector<T> <= size) {
      Vector<T> packed = *reinterpret_cast<const Vector<T>*>(grad + at);
#pragma unroll
      for (int e = 0; e < kPerVector<T>; ++e) packed.at[e] = from_float<T>(product(to_float(packed.at[e]), scale));
      *reinterpret_cast<Vector<T>*>(grad + at) = packed;
    } else {
      for (int64_t e = at; e < size && e < at + kPerVector<T>; ++e) grad[e] = from_float<T>(product(to_float(grad[e]), scale));
    }
  }
}

template <typename T, typename D, bool DENSE>
cudaError_t launch_loss(const LossArguments& arguments, const Device& device, cudaStream_t stream) {
  const int64_t columns = arguments.columns;
  const bool packed = arguments.logits_stride == columns && (!DENSE || arguments.dense_stride == columns) &&
                      (arguments.grad == nullptr || arguments.grad_stride == columns);
  if (columns <= kShortColumns && packed) {
    return launch_short_rows<T, D, DENSE>(arguments, device, stream);
  }
  return launch_long_rows<T, D, DENSE>(arguments, device, stream);
}

// What a mean divides by, to total.value; class weights count where `by_label`. At most most_shares shares.
inline cudaError_t launch_denominator(const LossArguments& arguments, bool by_label, const Device& device,
                                      const Total& total, cudaStream_t stream) {
  const int64_t blocks = (arguments.batch + 1023) / 1024;
  return launch(denominator_kernel, blocks < device.processors ? blocks : device.processors, 256, 0, 1, stream,
                arguments, by_label, total);
}

template <typename T>
cudaError_t launch_rescale(T* grad, const float* grad_output, int64_t size, const Device& device, cudaStream_t stream) {
  const int64_t blocks = (size / kPerVector<T> + 255) / 256, most = 8 * static_cast<int64_t>(device.processors);
  return launch(rescale_kernel<T>, blocks < 1 ? 1 : blocks < most ? blocks : most, 256, 0, 1, stream, grad, grad_output,
                size);
}

}  // namespace regfast::cuda
