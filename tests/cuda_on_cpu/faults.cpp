// Kernels that are wrong, each in one way that the emulator must show, and right ones that it must not complain about.
#include <cooperative_groups.h>
#include <cuda_pipeline.h>
#include <cuda_runtime.h>

namespace regfast::cuda {

enum Fault {
  kNone, kNoBarrier, kHalfBarrier, kTwoBarriers, kMissingLane, kAbsentSource, kBehind, kMisaligned, kBeyondShared,
  kUnwaited, kUnfinished, kStranger, kLeft
};

// The sum over the block of in[0, blockDim.x), by thread 0.
__global__ void block_sum(const int* in, int* out, Fault fault) {
  extern __shared__ __align__(16) unsigned char memory[];
  int* values = reinterpret_cast<int*>(memory);
  const int at = threadIdx.x, count = blockDim.x;
  if (fault == kUnwaited || fault == kUnfinished) {
    __pipeline_memcpy_async(values + at, in + at, 4);
    if (fault == kUnfinished) return;
  } else {
    values[at] = in[fault == kBehind ? at + 1 : at];
  }
  if (fault == kBeyondShared) values[at + 1] = in[at];
  if (fault == kMisaligned) out[0] = *reinterpret_cast<const int*>(reinterpret_cast<const char*>(in + 1) + 1);
  if (fault == kTwoBarriers) {
    if (at < 32) {
      __syncthreads();
    } else {
      __syncthreads();
    }
  } else if (fault == kHalfBarrier) {
    if (at < 32) __syncthreads();
    else __syncwarp();
    if (at >= 32) cooperative_groups::this_cluster().sync();
  } else if (fault != kNoBarrier) {
    __syncthreads();
  }
  if (fault == kMissingLane && at % 32 != 5) __shfl_xor_sync(0xffffffffu, at, 1);
  if (fault == kMissingLane && at % 32 == 5) __syncthreads();
  if (fault == kAbsentSource && at % 32 < 8) __shfl_sync(0xffu, at, 9);
  if (at == 0) {
    int sum = 0;
    for (int i = 0; i < count; ++i) sum += values[i];
    *out = sum;
  }
  if (fault == kUnwaited) {
    __pipeline_commit();
    __pipeline_wait_prior(0);
  }
}

// Each block of a cluster writes its rank into its neighbor's memory, which then adds it to out.
__global__ void neighbors(const int*, int* out, Fault fault) {
  __shared__ int given;
  auto cluster = cooperative_groups::this_cluster();
  if (fault != kStranger) cluster.sync();
  const unsigned other = (cluster.block_rank() + 1) % cluster.num_blocks();
  if (fault == kLeft && cluster.block_rank() == 1) return;
  if (threadIdx.x == 0) *cluster.map_shared_rank(&given, other) = static_cast<int>(cluster.block_rank());
  cluster.sync();
  if (threadIdx.x == 0) atomicAdd(out, given);
}

}  // namespace regfast::cuda

extern "C" int run_fault(int fault, const int* in, int* out, int count) {
  using namespace regfast::cuda;
  const bool cluster = fault == kStranger || fault == kLeft || count < 0;
  cudaLaunchAttribute attribute{cudaLaunchAttributeClusterDimension, {{4, 1, 1}}};
  const unsigned threads = static_cast<unsigned>(count < 0 ? -count : count);
  const unsigned blocks = cluster ? 8 : 1;
  const cudaLaunchConfig_t config{dim3(blocks), dim3(threads), threads * 4, nullptr, &attribute, cluster ? 1u : 0u};
  const auto kernel = cluster ? neighbors : block_sum;
  return emulator::status(cudaLaunchKernelEx(&config, kernel, in, out, static_cast<Fault>(fault)));
}
