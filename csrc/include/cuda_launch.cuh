// What the torch side of the CUDA kernels shares: device, stream, errors, arguments as the kernels take them.
#pragma once

#include <ATen/ATen.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGraphsC10Utils.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <map>
#include <mutex>
#include <optional>
#include <utility>

#include "cuda_rows.cuh"

namespace regfast::cuda {

inline cudaStream_t current_stream() { return c10::cuda::getCurrentCUDAStream().stream(); }

inline const Device& properties_of(const at::Tensor& tensor) {
  static std::mutex mutex;
  static std::map<int, Device> devices;
  const std::lock_guard<std::mutex> lock(mutex);
  const int ordinal = tensor.get_device();
  auto found = devices.find(ordinal);
  if (found == devices.end()) {
    Device device{};
    C10_CUDA_CHECK(read_device(ordinal, &device));
    found = devices.emplace(ordinal, device).first;
  }
  return found->second;
}

// A zero on the current device that kernels leave at zero. One a stream, since launches on different streams may overlap;
// a new one in a graph that is being captured, whose replays may run on any stream. Those that are kept lie outside torch's
// caching allocator: what that hands out while torch.compile warms a graph up belongs to the graph's pool, and is reused.
inline at::Tensor counter_for(const at::Tensor& tensor) {
  const auto options = tensor.options().dtype(at::kInt);
  if (c10::cuda::currentStreamCaptureStatusMayInitCtx() != c10::cuda::CaptureStatus::None) return at::zeros({1}, options);
  static std::mutex mutex;
  // Never freed: at exit the device may be gone before this is.
  static auto& counters = *new std::map<std::pair<int, cudaStream_t>, at::Tensor>;
  const std::lock_guard<std::mutex> lock(mutex);
  const cudaStream_t stream = current_stream();
  auto& counter = counters[{tensor.get_device(), stream}];
  if (!counter.defined()) {
    void* memory = nullptr;
    const c10::cuda::CUDAStreamCaptureModeGuard relaxed(cudaStreamCaptureModeRelaxed);  // another thread may capture
    C10_CUDA_CHECK(cudaMalloc(&memory, sizeof(int)));
    C10_CUDA_CHECK(cudaMemsetAsync(memory, 0, sizeof(int), stream));
    counter = at::from_blob(memory, {1}, options);
  }
  return counter;
}

// Whether the last backward pass on the device of `like` met a grad_output that is not 1, as far as the device has come. It
// lies in memory of the host's that kernels write to: nobody waits for it. Never freed, as the counters are not.
inline int* scaled_flag(const at::Tensor& like) {
  static std::mutex mutex;
  static std::map<int, int*> flags;
  const std::lock_guard<std::mutex> lock(mutex);
  int*& flag = flags[like.get_device()];
  if (flag == nullptr) {
    void* memory = nullptr;
    const c10::cuda::CUDAStreamCaptureModeGuard relaxed(cudaStreamCaptureModeRelaxed);
    C10_CUDA_CHECK(cudaHostAlloc(&memory, sizeof(int), cudaHostAllocMapped | cudaHostAllocPortable));
    flag = static_cast<int*>(memory);
    *flag = 0;
  }
  return flag;
}

// float32 on the device of `like`, without gaps; undefined for none.
inline at::Tensor floats(const std::optional<at::Tensor>& tensor, const at::Tensor& like) {
  if (!tensor.has_value() || !tensor->defined()) return {};
  return tensor->to(like.options().dtype(at::kFloat)).contiguous();
}

inline const float* pointer(const at::Tensor& tensor) { return tensor.defined() ? tensor.data_ptr<float>() : nullptr; }

// One int64 (a class, a sample's id) for each row of `like`, without gaps.
inline at::Tensor ids_of(const at::Tensor& tensor, const at::Tensor& like, const char* name) {
  TORCH_CHECK_TYPE(tensor.scalar_type() == at::kLong, name, " must be int64, got ", tensor.scalar_type());
  TORCH_CHECK_VALUE(tensor.dim() == 1 && tensor.size(0) == like.size(0) && tensor.device() == like.device(), name,
                    " must be (B,) = (", like.size(0), ",) on ", like.device(), ", got ", tensor.sizes(), " on ",
                    tensor.device());
  return tensor.contiguous();
}

// Columns adjacent.
inline at::Tensor with_rows(const at::Tensor& tensor) {
  return tensor.size(1) <= 1 || tensor.stride(1) == 1 ? tensor : tensor.contiguous();
}

}  // namespace regfast::cuda
