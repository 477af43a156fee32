// The part of the CUDA runtime and of its device functions that our kernels use, on emulator.h.
#pragma once

#include <math.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <type_traits>
#include <utility>

#include "../emulator.h"

#define __CUDA_ARCH__ 900
#define __global__
#define __device__
#define __host__
#define __shared__ thread_local
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))

using dim3 = emulator::Size3;
constexpr int warpSize = 32;

struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) int2 { int x, y; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

// Waiting for one another.

inline void __syncthreads(emulator::Site where = emulator::Site::current()) { emulator::barrier(0, where); }
inline int __syncthreads_count(int predicate, emulator::Site where = emulator::Site::current()) {
  return emulator::barrier(predicate, where);
}
inline int __syncthreads_or(int predicate, emulator::Site where = emulator::Site::current()) {
  return emulator::barrier(predicate, where) != 0;
}
inline int __syncthreads_and(int predicate, emulator::Site where = emulator::Site::current()) {
  return emulator::barrier(predicate == 0, where) == 0;
}
inline void __syncwarp(unsigned mask = ~0u, emulator::Site where = emulator::Site::current()) {
  emulator::exchange(emulator::Collective::kSync, mask, 0, 0, 32, where);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, emulator::Site where = emulator::Site::current()) {
  return static_cast<unsigned>(emulator::exchange(emulator::Collective::kBallot, mask, predicate != 0, 0, 32, where));
}
inline int __any_sync(unsigned mask, int predicate, emulator::Site where = emulator::Site::current()) {
  return __ballot_sync(mask, predicate, where) != 0;
}
inline int __all_sync(unsigned mask, int predicate, emulator::Site where = emulator::Site::current()) {
  return __ballot_sync(mask, predicate == 0, where) == 0;
}

namespace emulator {
template <typename T>
T shuffle(Collective kind, unsigned mask, T value, int parameter, int width, Site where) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 8);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = exchange(kind, mask, bits, parameter, width, where);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}
}  // namespace emulator

template <typename T>
T __shfl_sync(unsigned mask, T value, int lane, int width = 32, emulator::Site where = emulator::Site::current()) {
  return emulator::shuffle(emulator::Collective::kIndex, mask, value, lane, width, where);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, int by, int width = 32, emulator::Site where = emulator::Site::current()) {
  return emulator::shuffle(emulator::Collective::kUp, mask, value, by, width, where);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, int by, int width = 32, emulator::Site where = emulator::Site::current()) {
  return emulator::shuffle(emulator::Collective::kDown, mask, value, by, width, where);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int with, int width = 32, emulator::Site where = emulator::Site::current()) {
  return emulator::shuffle(emulator::Collective::kXor, mask, value, with, width, where);
}

// Memory.

inline void __threadfence() { emulator::give_way(); }
inline void __threadfence_block() {}
template <typename T>
T __ldg(const T* from) { return *from; }
template <typename T>
T __ldcg(const T* from) { return *from; }
template <typename T>
T __ldcs(const T* from) { return *from; }
template <typename T>
void __stcs(T* to, T value) { *to = value; }
template <typename T>
void __stcg(T* to, T value) { *to = value; }

namespace emulator {
template <typename T, typename F>
T atomically(T* at, F change) {
  give_way();
  const T former = *at;
  *at = change(former);
  give_way();
  return former;
}
}  // namespace emulator

template <typename T>
T atomicAdd(T* at, std::type_identity_t<T> value) {
  return emulator::atomically(at, [&](T former) { return static_cast<T>(former + value); });
}
template <typename T>
T atomicMax(T* at, std::type_identity_t<T> value) {
  return emulator::atomically(at, [&](T former) { return former > value ? former : value; });
}
template <typename T>
T atomicExch(T* at, std::type_identity_t<T> value) {
  return emulator::atomically(at, [&](T) { return value; });
}
template <typename T>
T atomicCAS(T* at, std::type_identity_t<T> expected, std::type_identity_t<T> value) {
  return emulator::atomically(at, [&](T former) { return former == expected ? value : former; });
}
// atomicInc wraps to 0 after `last`.
inline unsigned atomicInc(unsigned* at, unsigned last) {
  return emulator::atomically(at, [&](unsigned former) { return former >= last ? 0u : former + 1; });
}

// Arithmetic. The library is compiled without contraction to fused multiply-adds.

namespace emulator {
// 2^x in the hardware's way: results below the normal range are 0, and the error is as large as PTX allows (2^-22.5 of
// the value), up or down as the argument's bits fall.
inline float approximate_exp2(float x) {
  const uint32_t hash = std::bit_cast<uint32_t>(x) * 2654435769u;
  const double error = (hash >> 31 ? 1.0 : -1.0) * 1.6858739404357612e-07;
  const float y = static_cast<float>(std::exp2(static_cast<double>(x)) * (x == 0.0f ? 1.0 : 1.0 + error));
  return y < 1.17549435e-38f ? 0.0f : y;
}
}  // namespace emulator

inline float __expf(float x) { return emulator::approximate_exp2(x * 1.4426950408889634f); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return std::fmaf(a, b, c); }
inline float __fsqrt_rn(float a) { return std::sqrt(a); }
inline float __uint2float_rn(unsigned a) { return static_cast<float>(a); }
inline float __int2float_rn(int a) { return static_cast<float>(a); }
inline float __uint_as_float(unsigned a) { return std::bit_cast<float>(a); }
inline float __int_as_float(int a) { return std::bit_cast<float>(a); }
inline unsigned __float_as_uint(float a) { return std::bit_cast<unsigned>(a); }
inline int __float_as_int(float a) { return std::bit_cast<int>(a); }
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>(uint64_t{a} * b >> 32); }
inline int __popc(unsigned a) { return std::popcount(a); }
inline int __ffs(int a) { return a == 0 ? 0 : std::countr_zero(static_cast<unsigned>(a)) + 1; }
inline int __clz(int a) { return std::countl_zero(static_cast<unsigned>(a)); }
inline float rsqrtf(float a) { return 1.0f / std::sqrt(a); }

template <typename A, typename B>
constexpr std::common_type_t<A, B> min(A a, B b) { return b < a ? b : a; }
template <typename A, typename B>
constexpr std::common_type_t<A, B> max(A a, B b) { return a < b ? b : a; }

// The host's side.

enum cudaError_t { cudaSuccess, cudaErrorInvalidValue, cudaErrorInvalidConfiguration, cudaErrorLaunchFailure };
using cudaStream_t = void*;
enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount,
  cudaDevAttrMaxSharedMemoryPerBlockOptin,
  cudaDevAttrMaxSharedMemoryPerMultiprocessor,
  cudaDevAttrClusterLaunch,
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
enum cudaLaunchAttributeID { cudaLaunchAttributeClusterDimension };
struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  struct {
    struct { unsigned x, y, z; } clusterDim;
  } val;
};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
  cudaLaunchAttribute* attrs;
  unsigned numAttrs;
};

inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount: *value = emulator::machine.processors; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = emulator::machine.shared_memory; break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = emulator::machine.shared_memory + 1024; break;
    case cudaDevAttrClusterLaunch: *value = emulator::machine.clusters; break;
  }
  return cudaSuccess;
}

inline cudaError_t cudaGetLastError() { return cudaSuccess; }

struct cudaFuncAttributes { int ptxVersion; };
template <typename F>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, F*) {
  attributes->ptxVersion = __CUDA_ARCH__ / 10;
  return cudaSuccess;
}

template <typename F>
cudaError_t cudaFuncSetAttribute(F* kernel, cudaFuncAttribute, int bytes) {
  if (bytes < 0 || bytes > emulator::machine.shared_memory) return cudaErrorInvalidValue;
  emulator::allow_shared_memory(reinterpret_cast<const void*>(kernel), static_cast<size_t>(bytes));
  return cudaSuccess;
}

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...), Arguments&&... arguments) {
  emulator::Launch launch{reinterpret_cast<const void*>(kernel), config->gridDim, config->blockDim, 1,
                          config->dynamicSmemBytes};
  for (unsigned i = 0; i < config->numAttrs; ++i) launch.cluster = config->attrs[i].val.clusterDim.x;
  const auto body = std::bind(kernel, static_cast<Parameters>(std::forward<Arguments>(arguments))...);
  return emulator::run(launch, body) ? cudaSuccess : cudaErrorLaunchFailure;
}

// Blocks of 256 threads, three a processor if their memory fits; a cluster within one of the groups of up to 18 processors.
template <typename F>
cudaError_t cudaOccupancyMaxActiveClusters(int* count, F*, const cudaLaunchConfig_t* config) {
  const int processors = emulator::machine.processors, groups = (processors + 17) / 18;
  const int by_memory = emulator::machine.shared_memory / static_cast<int>(config->dynamicSmemBytes + 2048);
  *count = 0;
  for (int group = 0, left = processors / 2; group < groups; ++group) {
    const int pairs = group + 1 < groups ? (left + groups - group - 1) / (groups - group) : left;  // they come in pairs
    *count += (2 * pairs * std::min(3, by_memory)) / static_cast<int>(config->attrs->val.clusterDim.x);
    left -= pairs;
  }
  return cudaSuccess;
}

namespace emulator {
// For the library's caller: 0, or not 0 and the reason in emulator_error().
inline int status(cudaError_t code) {
  if (code != cudaSuccess && error()[0] == 0) refuse("the launch was refused before it reached the runtime");
  return code;
}
}  // namespace emulator
