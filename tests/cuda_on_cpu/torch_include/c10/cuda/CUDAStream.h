// What csrc/include/cuda_launch.cuh asks of torch's CUDA half, as variables that counter.cpp sets and counts.
#pragma once

#include <cuda_runtime.h>

#include <cstdlib>
#include <cstring>

namespace fake {

inline intptr_t stream = 0;
inline bool capturing = false, relaxed = false;
inline int allocations = 0;

}  // namespace fake

enum cudaStreamCaptureMode { cudaStreamCaptureModeRelaxed };

inline cudaError_t cudaMalloc(void** memory, size_t bytes) {
  fake::allocations += fake::relaxed;  // else a capture in another thread would fail
  *memory = std::malloc(bytes);
  std::memset(*memory, 0x5a, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t) {
  std::memset(memory, value, bytes);
  return cudaSuccess;
}

enum { cudaHostAllocPortable = 1, cudaHostAllocMapped = 2 };
inline cudaError_t cudaHostAlloc(void** memory, size_t bytes, unsigned) {
  *memory = std::malloc(bytes);
  return cudaSuccess;
}

#define C10_CUDA_CHECK(call) TORCH_CHECK((call) == cudaSuccess)

namespace c10::cuda {

struct CUDAStream {
  cudaStream_t stream() const { return reinterpret_cast<cudaStream_t>(fake::stream); }
};
inline CUDAStream getCurrentCUDAStream() { return {}; }

enum class CaptureStatus { None, Active };
inline CaptureStatus currentStreamCaptureStatusMayInitCtx() {
  return fake::capturing ? CaptureStatus::Active : CaptureStatus::None;
}
struct CUDAGuard {
  explicit CUDAGuard(c10::Device) {}
};
struct CUDAStreamCaptureModeGuard {
  explicit CUDAStreamCaptureModeGuard(cudaStreamCaptureMode) { fake::relaxed = true; }
  ~CUDAStreamCaptureModeGuard() { fake::relaxed = false; }
};

}  // namespace c10::cuda
