// Device helpers shared by the kernels over rows: 16-byte access with a peel, reductions over warp, block and cluster.
// No torch here: pointers, sizes, strides and a stream.
#pragma once

#include <cooperative_groups.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_pipeline.h>
#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>
#include <map>
#include <mutex>
#include <tuple>

#include "cuda_loss_plan.h"

namespace regfast::cuda {

template <typename T>
constexpr int kPerVector = 16 / static_cast<int>(sizeof(T));

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__half x) { return __half2float(x); }
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }

template <typename T>
__device__ __forceinline__ T from_float(float x);
template <>
__device__ __forceinline__ float from_float<float>(float x) { return x; }
template <>
__device__ __forceinline__ __half from_float<__half>(float x) { return __float2half_rn(x); }
template <>
__device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float x) { return __float2bfloat16_rn(x); }

// 16 bytes of T, as one load or store.
template <typename T>
struct alignas(16) Vector {
  T at[kPerVector<T>];
};

__device__ __forceinline__ bool is_aligned(const void* pointer) {
  return (reinterpret_cast<uintptr_t>(pointer) & 15) == 0;
}

// Elements between the last 16-byte boundary and `pointer`.
template <typename T>
__device__ __forceinline__ int misalignment(const T* pointer) {
  return static_cast<int>((reinterpret_cast<uintptr_t>(pointer) & 15) / sizeof(T));
}

// Start copying global[0, count) to shared[shift, shift + count), where shift is the misalignment of `global`, so that
// whole vectors stay whole. `fill` goes where no element lands, up to `slots` elements (a multiple of the vector). The
// calling thread is number `thread` of `threads` that copy.
template <typename T>
__device__ __forceinline__ void copy_slice_async(T* shared, const T* global, int count, int slots, T fill, int thread,
                                                 int threads) {
  const int shift = misalignment(global);
  for (int at = thread * kPerVector<T>; at < slots; at += threads * kPerVector<T>) {
    const int first = at - shift;
    if (first >= 0 && first + kPerVector<T> <= count) {
      __pipeline_memcpy_async(shared + at, global + first, 16);
    } else {
#pragma unroll
      for (int e = 0; e < kPerVector<T>; ++e) {
        const int index = first + e;
        shared[at + e] = index >= 0 && index < count ? global[index] : fill;
      }
    }
  }
}

// The vector of a row's elements first …, without what lies outside [0, count); `whole`: vectors start at 16 bytes.
template <typename T>
__device__ __forceinline__ void write_vector(T* row, int first, int count, bool whole, const Vector<T>& packed) {
  constexpr int N = kPerVector<T>;
  if (whole && first >= 0 && first + N <= count) {
    __stcs(reinterpret_cast<uint4*>(row + first), *reinterpret_cast<const uint4*>(&packed));
    return;
  }
#pragma unroll
  for (int e = 0; e < N; ++e) {
    if (first + e >= 0 && first + e < count) row[first + e] = packed.at[e];
  }
}

template <typename T>
__device__ __forceinline__ void write_zeros(T* row, int count, int thread, int threads) {
  constexpr int N = kPerVector<T>;
  Vector<T> zeros;
#pragma unroll
  for (int e = 0; e < N; ++e) zeros.at[e] = from_float<T>(0.0f);
  for (int first = thread * N - misalignment(row); first < count; first += threads * N) {
    write_vector(row, first, count, true, zeros);
  }
}

// For the copies of the calling thread, but for the `behind` last ones that it committed: the others need a barrier before
// they read them.
__device__ __forceinline__ void wait_for_copies(int behind) {
  if (behind == 0) {
    __pipeline_wait_prior(0);
  } else {
    __pipeline_wait_prior(1);
  }
}

// N consecutive elements at `pointer` in shared memory, in as few loads as their alignment allows.
template <int N, typename T>
__device__ __forceinline__ void read_floats(const T* pointer, float (&out)[N]) {
  static_assert(N % kPerVector<T> == 0 || kPerVector<T> % N == 0);
  if constexpr (N % kPerVector<T> == 0) {
    if (is_aligned(pointer)) {
#pragma unroll
      for (int v = 0; v < N / kPerVector<T>; ++v) {
        const Vector<T> packed = reinterpret_cast<const Vector<T>*>(pointer)[v];
#pragma unroll
        for (int e = 0; e < kPerVector<T>; ++e) out[v * kPerVector<T> + e] = to_float(packed.at[e]);
      }
      return;
    }
  }
#pragma unroll
  for (int e = 0; e < N; ++e) out[e] = to_float(pointer[e]);
}

struct Maximum {
  static constexpr float identity = -INFINITY;
  __device__ __forceinline__ float operator()(float a, float b) const { return fmaxf(a, b); }
};

struct Sum {
  static constexpr float identity = 0.0f;
  __device__ __forceinline__ float operator()(float a, float b) const { return a + b; }
};

// Over G neighboring threads of a warp, of which those in `mask` are here; every thread gets the same bits.
template <int G = 32, typename Op>
__device__ __forceinline__ float reduce_warp(float value, Op op, unsigned mask = 0xffffffffu) {
#pragma unroll
  for (int offset = G / 2; offset > 0; offset >>= 1) value = op(value, __shfl_xor_sync(mask, value, offset));
  return value;
}

// The sum over the block, for every thread, added in the same order each time.
__device__ __forceinline__ float sum_block(float value) {
  __shared__ float warps[32];
  value = reduce_warp(value, Sum{});
  __syncthreads();  // nobody reads a former sum any more
  if ((threadIdx.x & 31) == 0) warps[threadIdx.x >> 5] = value;
  __syncthreads();
  value = 0.0f;
  for (unsigned warp = 0; warp < blockDim.x >> 5; ++warp) value += warps[warp];
  return value;
}

// exp(x) for x ≤ 0; 0 below the normal range. The hardware's 2^y takes a y that was rounded, which costs digits where x is
// large: float32 gets them back as the factor 1 + (x - y ln 2). 16-bit formats don't need them.
template <typename T>
__device__ __forceinline__ float exponential(float x) {
  if constexpr (sizeof(T) < 4) return __expf(x);
  x = x < -110.0f ? -110.0f : x;  // of which the power is 0; NaN stays
  const float y = x * 1.4426950408889634f, power = __expf(x);
  return fmaf(power, fmaf(-y, 0.6931471805599453f, x), power);
}

// The blocks that share a row: one, or a thread-block cluster (sm_90 and later).
struct Team {
  int size;
  int rank;

  __device__ __forceinline__ void sync() const {
#if __CUDA_ARCH__ >= 900
    if (size > 1) {
      cooperative_groups::this_cluster().sync();
      return;
    }
#endif
    __syncthreads();
  }

  // `local`, a pointer to this block's shared memory, as block `other` of the team has it.
  __device__ __forceinline__ float* at(float* local, int other) const {
#if __CUDA_ARCH__ >= 900
    if (size > 1) return cooperative_groups::this_cluster().map_shared_rank(local, other);
#endif
    return local;
  }
};

template <int N>
struct Exchange {
  float warps[N][32];
  float blocks[N][kMaxCluster];
};

// Reduce N values over all threads of the team; every thread gets the same results, added in the same order each time.
// `exchange` may be used again once the team has met at another reduction in between.
template <int N, typename Op>
__device__ __forceinline__ void reduce_team(float (&values)[N], Exchange<N>& exchange, const Team& team, Op op) {
  const int lane = threadIdx.x & 31;
  const int warp = threadIdx.x >> 5;
#pragma unroll
  for (int n = 0; n < N; ++n) {
    values[n] = reduce_warp(values[n], op);
    if (lane == 0) exchange.warps[n][warp] = values[n];
  }
  __syncthreads();
  if (warp == 0) {
    const int warps = blockDim.x >> 5;
#pragma unroll
    for (int n = 0; n < N; ++n) {
      const float total = reduce_warp(lane < warps ? exchange.warps[n][lane] : Op::identity, op);
      if (lane < team.size) *team.at(&exchange.blocks[n][team.rank], lane) = total;
    }
  }
  team.sync();
#pragma unroll
  for (int n = 0; n < N; ++n) {
    values[n] = exchange.blocks[n][0];
    for (int block = 1; block < team.size; ++block) values[n] = op(values[n], exchange.blocks[n][block]);
  }
}

// Where the sum over all blocks goes, in this very launch: see add_to_total.
struct Total {
  float* value = nullptr;    // result; null: nobody asks
  float* partial = nullptr;  // one entry a share
  int* counter = nullptr;    // 0 before and after
};

// total = scale * Σ share, over all `shares`. Called by every thread of the blocks that have one; `share` is thread 0's.
// The block that arrives last adds the shares in index order, whichever block that is: the sum is the same every run.
__device__ __forceinline__ void add_to_total(const Total& total, float share, int index, int shares, float scale) {
  __shared__ bool last;
  if (threadIdx.x == 0) {
    total.partial[index] = share;
    __threadfence();
    last = atomicAdd(total.counter, 1) == shares - 1;
    __threadfence();
  }
  __syncthreads();
  if (!last) return;
  float sum = 0.0f;
  for (int i = threadIdx.x; i < shares; i += blockDim.x) sum += __ldcg(total.partial + i);
  sum = sum_block(sum);
  if (threadIdx.x == 0) {
    *total.value = sum * scale;
    *total.counter = 0;
  }
}

static __global__ void probe_kernel() {}  // tells what this code was compiled for

inline cudaError_t read_device(int ordinal, Device* device) {
  int clusters = 0;
  device->ordinal = ordinal;
  cudaError_t error = cudaDeviceGetAttribute(&device->processors, cudaDevAttrMultiProcessorCount, ordinal);
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&device->shared_memory, cudaDevAttrMaxSharedMemoryPerBlockOptin, ordinal);
  }
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&clusters, cudaDevAttrClusterLaunch, ordinal);
  cudaFuncAttributes code{};
  if (error == cudaSuccess) error = cudaFuncGetAttributes(&code, probe_kernel);
  device->clusters = clusters != 0 && code.ptxVersion >= 90;  // code made for sm_80 knows no clusters wherever it runs
  return error;
}

// A launch of `blocks` blocks in clusters of `cluster`.
struct Configuration {
  cudaLaunchConfig_t config{};
  cudaLaunchAttribute attribute{};

  Configuration(int64_t blocks, int threads, int shared_bytes, int cluster, cudaStream_t stream) {
    config.gridDim = dim3(static_cast<unsigned>(blocks));
    config.blockDim = dim3(static_cast<unsigned>(threads));
    config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
    config.stream = stream;
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim.x = static_cast<unsigned>(cluster);
    attribute.val.clusterDim.y = 1;
    attribute.val.clusterDim.z = 1;
    config.attrs = &attribute;
    config.numAttrs = cluster > 1 ? 1 : 0;
  }
  Configuration(const Configuration&) = delete;  // it points into itself
};

// kernel<<<blocks, threads, shared_bytes, stream>>>(arguments...), in clusters of `cluster` blocks, as plain C++.
template <typename... Parameters, typename... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), int64_t blocks, int threads, int shared_bytes, int cluster,
                   cudaStream_t stream, Arguments... arguments) {
  if (blocks > INT32_MAX) return cudaErrorInvalidValue;
  const Configuration made(blocks, threads, shared_bytes, cluster, stream);
  return cudaLaunchKernelEx(&made.config, kernel, arguments...);
}

// How many clusters run at once on the current device, at least 1: fewer than its processors would hold, since each lies
// within one group of processors (GPC). Asked once a kind of launch, as asking takes microseconds.
template <typename... Parameters>
cudaError_t active_clusters(void (*kernel)(Parameters...), const Device& device, int threads, int shared_bytes,
                            int cluster, int* found) {
  static std::mutex mutex;
  static std::map<std::tuple<const void*, int, int, int, int, int>, int> known;
  const std::lock_guard<std::mutex> lock(mutex);
  int& count = known[{reinterpret_cast<const void*>(kernel), device.ordinal, device.processors, threads, shared_bytes, cluster}];
  if (count == 0) {
    const Configuration made(cluster, threads, shared_bytes, cluster, nullptr);
    const cudaError_t error = cudaOccupancyMaxActiveClusters(&count, kernel, &made.config);
    if (error != cudaSuccess) return error;
    if (count < 1) count = 1;
  }
  *found = count;
  return cudaSuccess;
}

}  // namespace regfast::cuda
