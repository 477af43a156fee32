// What moves of attacks share on CUDA: arithmetic with the reference's bits, rows shared out to threads, launches.
//
// Every operation rounds once, as the reference's does (no fused multiply-add): what needs no sum over the row has the
// reference's bits.
#pragma once

#include <type_traits>

#include "cuda_rows.cuh"

namespace regfast::cuda::perturbation {

enum class Norm { kLinf, kL2, kL1 };

constexpr float kTiny = 1e-12f;
constexpr int kChunk = 1024;  // entries of a block that needs nothing of its row's others

// One value a row (stride 1), one for all (stride 0), or where there is no tensor a number.
struct PerRow {
  const float* values;
  int stride;
  float value;
  __device__ __forceinline__ float operator[](int64_t row) const {
    return values != nullptr ? values[row * stride] : value;
  }
};

struct Box {
  float lower, upper;
};

// Rounded one by one: these are never contracted.
__device__ __forceinline__ float add(float a, float b) { return __fadd_rn(a, b); }
__device__ __forceinline__ float subtract(float a, float b) { return __fsub_rn(a, b); }
__device__ __forceinline__ float multiply(float a, float b) { return __fmul_rn(a, b); }
__device__ __forceinline__ float divide(float a, float b) { return __fdiv_rn(a, b); }

// Into [low, high]; NaN stays NaN.
__device__ __forceinline__ float clip(float x, float low, float high) {
  const float y = x < low ? low : x;
  return y > high ? high : y;
}

__device__ __forceinline__ float sign(float x) { return x > 0.0f ? 1.0f : (x < 0.0f ? -1.0f : x); }

template <int N, typename T>
struct alignas(N * sizeof(T)) Pack {
  T at[N];
};

template <int N, typename T>
__device__ __forceinline__ void load(const T* from, float (&to)[N]) {
  const Pack<N, T> pack = *reinterpret_cast<const Pack<N, T>*>(from);
#pragma unroll
  for (int e = 0; e < N; ++e) to[e] = to_float(pack.at[e]);
}

template <int N>
__device__ __forceinline__ void store(float* to, const float (&from)[N]) {
  Pack<N, float> pack;
#pragma unroll
  for (int e = 0; e < N; ++e) pack.at[e] = from[e];
  *reinterpret_cast<Pack<N, float>*>(to) = pack;
}

// Entries between the last boundary of four and `pointer`.
template <typename T>
__device__ __forceinline__ int phase(const T* pointer) {
  return static_cast<int>(reinterpret_cast<uintptr_t>(pointer) / sizeof(T) & 3);
}

// Entries begin … end - 1 of a row; those of first … last - 1 can be had four at a time.
struct Slice {
  int begin, first, last, end;
};

// `phases`: of the row's arrays at `begin`, all the same; -1: they differ, and entries come one by one.
__device__ __forceinline__ Slice slice_of(int begin, int end, int phases) {
  if (phases < 0) return {begin, begin, begin, end};
  const int first = min(end, begin + ((4 - phases) & 3));
  return {begin, first, first + (end - first) / 4 * 4, end};
}

template <int N>
using Width = std::integral_constant<int, N>;

// body(Width<4>, i) and body(Width<1>, i) for this thread's entries i of the slice, the same ones in every pass.
template <typename Body>
__device__ __forceinline__ void each(const Slice& slice, Body body) {
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  if (slice.begin + thread < slice.first) body(Width<1>{}, slice.begin + thread);  // fewer than four
  for (int i = slice.first + 4 * thread; i < slice.last; i += 4 * threads) body(Width<4>{}, i);
  for (int i = slice.last + thread; i < slice.end; i += threads) body(Width<1>{}, i);
}

// Reductions over a row's team, one after another; `pages` are two.
template <int N>
struct Reduction {
  Exchange<N>* pages;
  Team team;
  int turn = 0;

  __device__ __forceinline__ Reduction(Exchange<N>* pages, const Team& team) : pages(pages), team(team) {
    if (team.size > 1) team.sync();  // nobody writes to a block that has not begun
  }

  template <typename Op>
  __device__ __forceinline__ void operator()(float (&values)[N], Op op) {
    reduce_team(values, pages[turn], team, op);
    turn ^= 1;
  }
};

// A kernel over rows of `clean`, `delta` and `out`, all float: the phases they share.
__device__ __forceinline__ int common_phase(const float* a, const float* b, const float* c) {
  return phase(a) == phase(b) && phase(b) == phase(c) ? phase(a) : -1;
}

// The part of a row that this block of its team has, in multiples of four.
__device__ __forceinline__ void share_of(int size, const Team& team, int& begin, int& end) {
  const int part = ((size + team.size - 1) / team.size + 3) / 4 * 4;
  begin = min(size, team.rank * part);
  end = min(size, begin + part);
}

// ---------------------------------------------------------------------------------------------------------------------
// Launches, on `stream` of the current device, of rows > 0 and size > 0. Each returns what the runtime says of it.

// Blocks a row: a cluster where the row is long and there are few.
inline int team_for(const Device& device, int64_t rows, int size) {
  int team = 1;
  while (device.clusters && team < kMaxCluster && size / team > 8192 && rows * team < 4 * device.processors) team *= 2;
  return team;
}

template <typename Arguments>
cudaError_t launch_chunks(void (*kernel)(Arguments, int), const Arguments& arguments, cudaStream_t stream) {
  const int chunks = (arguments.size + kChunk - 1) / kChunk;
  return launch(kernel, arguments.rows * chunks, kChunk / 4, 0, 1, stream, arguments, chunks);
}

template <typename Arguments>
cudaError_t launch_teams(void (*kernel)(Arguments, int), const Arguments& arguments, const Device& device,
                         cudaStream_t stream) {
  const int team = team_for(device, arguments.rows, arguments.size);
  const int threads = arguments.size / team <= 4096 ? 256 : 512;
  return launch(kernel, arguments.rows * team, threads, 0, team, stream, arguments, team);
}

}  // namespace regfast::cuda::perturbation
