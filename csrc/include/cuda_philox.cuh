// Counter-based random numbers on CUDA: the draws of philox.h, bit for bit.
#pragma once

#include "cuda_rows.cuh"
#include "philox.h"

namespace regfast::cuda {

__device__ __forceinline__ float uniform_of(uint32_t word) { return static_cast<float>(word >> 8) * 0x1p-24f; }

__device__ __forceinline__ float normal_draw(const PhiloxKey& key, int element) {
  uint32_t words[4], sum = 0;
  philox(key, static_cast<uint32_t>(element), words);
#pragma unroll
  for (int i = 0; i < 4; ++i) sum += (words[i] & 1023) + ((words[i] >> 10) & 1023) + ((words[i] >> 20) & 1023);
  return __fmul_rn(static_cast<float>(static_cast<int32_t>(sum) - 6138), 0x1.000008p-10f);
}

struct DrawArguments {
  float* out;  // (rows, count)
  const int64_t *samples, *restarts, *steps;
  uint64_t seed;
  int64_t stage;
  int64_t rows;
  int count;
};

constexpr int kDrawThreads = 256;

// `chunks` blocks a row; a thread has four draws, those of one counter where they are uniform.
template <bool NORMAL>
__global__ void __launch_bounds__(kDrawThreads) draw_kernel(const DrawArguments arguments, int chunks) {
  const int64_t row = blockIdx.x / chunks;
  const int block = static_cast<int>(blockIdx.x % chunks) * kDrawThreads + static_cast<int>(threadIdx.x);
  if (block >= (arguments.count + 3) / 4) return;
  const PhiloxKey key = philox_key(arguments.seed, arguments.samples[row], arguments.stage, arguments.restarts[row],
                                   arguments.steps[row]);
  uint32_t words[4];
  if constexpr (!NORMAL) philox(key, static_cast<uint32_t>(block), words);
  float* out = arguments.out + row * arguments.count;
#pragma unroll
  for (int e = 0; e < 4; ++e) {
    const int i = 4 * block + e;
    if (i < arguments.count) out[i] = NORMAL ? normal_draw(key, i) : uniform_of(words[e]);
  }
}

// On `stream` of the current device, of rows > 0 and count > 0; the stage of normal draws has bit 7 set.
inline cudaError_t launch_draws(const DrawArguments& arguments, bool normal, cudaStream_t stream) {
  const int chunks = (arguments.count + 4 * kDrawThreads - 1) / (4 * kDrawThreads);
  return launch(normal ? draw_kernel<true> : draw_kernel<false>, arguments.rows * chunks, kDrawThreads, 0, 1, stream,
                arguments, chunks);
}

}  // namespace regfast::cuda
