// What attacks climb, on CUDA: value, prediction and gradient of every row in one launch (regfast/ops/objective.py has the
// table). A warp or a block a row; the row is read once for every rank it needs, after the first from the L1 cache.
#pragma once

#include "cuda_rows.cuh"

namespace regfast::cuda::objectives {

enum class Kind { kCrossEntropy, kMargin, kLogitRatio, kProbabilityMargin };

struct Arguments {
  const void* logits;  // the kernel's T, as is gradient
  int64_t logits_stride;
  const int64_t* labels;
  const int64_t* targets;  // null: untargeted
  float* loss;
  int64_t* prediction;
  void* gradient;  // adjacent rows
  int64_t rows;
  int columns;
  Kind kind;
};

constexpr int kWarpColumns = 256;  // up to so many a warp has a row
constexpr int kWarpThreads = 128, kBlockThreads = 256;

// A logit and its column as one number that orders as they rank: larger logits first, then lower columns, NaN before all.
__device__ __forceinline__ uint64_t rank_of(float z, int column) {
  unsigned bits = __float_as_uint(z == 0.0f ? 0.0f : z);
  bits ^= bits >> 31 != 0 ? 0xffffffffu : 0x80000000u;
  if (z != z) bits = 0xffffffffu;
  return static_cast<uint64_t>(bits) << 32 | (0xffffffffu - static_cast<unsigned>(column));
}

__device__ __forceinline__ int column_of(uint64_t rank) {
  return static_cast<int>(0xffffffffu - static_cast<unsigned>(rank));
}

struct Larger {
  __device__ __forceinline__ uint64_t operator()(uint64_t a, uint64_t b) const { return a > b ? a : b; }
};

// The threads that share a row. Every one of them gets the results.
template <int THREADS>
struct Group {
  static constexpr int kWarps = THREADS / 32;
  uint64_t (*pages)[kWarps];  // two of shared memory
  int thread;
  int turn = 0;

  template <typename V, typename Op>
  __device__ __forceinline__ V reduce(V value, Op op) {
#pragma unroll
    for (int offset = 16; offset > 0; offset >>= 1) value = op(value, __shfl_xor_sync(0xffffffffu, value, offset));
    if constexpr (kWarps == 1) {
      return value;
    } else {
      // Two pages, so that one meeting a reduction is enough: who writes again has met the others once since they read.
      V* page = reinterpret_cast<V*>(pages[turn]);
      if ((thread & 31) == 0) page[thread >> 5] = value;
      __syncthreads();
      value = page[0];
#pragma unroll
      for (int warp = 1; warp < kWarps; ++warp) value = op(value, page[warp]);
      turn ^= 1;
      return value;
    }
  }
};

// A row's value, and its derivative as five coefficients: softmax (times p), to, label, largest, low. In float64, since those
// that fall to one class may cancel.
struct Climb {
  double loss, softmax, to, label, largest, low;
};

template <typename T, int THREADS>
__global__ void __launch_bounds__(THREADS == 32 ? kWarpThreads : THREADS) objective_kernel(const Arguments arguments) {
  __shared__ uint64_t pages[2][THREADS / 32];
  constexpr int kRows = THREADS == 32 ? kWarpThreads / 32 : 1;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kRows + static_cast<int>(threadIdx.x) / THREADS;
  if (row >= arguments.rows) return;
  Group<THREADS> group{pages, static_cast<int>(threadIdx.x) % THREADS};
  const int columns = arguments.columns;
  const bool targeted = arguments.targets != nullptr;
  const Kind kind = arguments.kind;
  const T* z = static_cast<const T*>(arguments.logits) + row * arguments.logits_stride;

  // What ranks next behind `rank`.
  const auto next = [&](uint64_t rank) {
    uint64_t best = 0;
    for (int k = group.thread; k < columns; k += THREADS) {
      const uint64_t here = rank_of(to_float(z[k]), k);
      best = here < rank && here > best ? here : best;
    }
    return group.reduce(best, Larger{});
  };
  const uint64_t first = next(~uint64_t{0});
  const int at1 = column_of(first);
  const float z1 = to_float(z[at1]);
  const int64_t given = arguments.labels[row];
  bool valid = given >= 0 && given < columns;
  const int label = valid ? static_cast<int>(given) : 0;
  int to = label, at3 = at1, at4 = at1;
  uint64_t rank = first;
  if ((!targeted && kind != Kind::kCrossEntropy) || kind == Kind::kLogitRatio) {
    rank = next(rank);
    to = at1 == label ? column_of(rank) : at1;
  }
  if (kind == Kind::kLogitRatio) {
    rank = next(rank);
    at4 = at3 = column_of(rank);
    if (targeted) at4 = column_of(next(rank));
  }
  if (targeted) {
    const int64_t target = arguments.targets[row];
    const bool inside = target >= 0 && target < columns;
    valid = valid && inside;
    to = inside ? static_cast<int>(target) : 0;
  }

  const float z_to = to_float(z[to]), z_label = to_float(z[label]);
  const bool exponential = kind == Kind::kCrossEntropy || kind == Kind::kProbabilityMargin;
  float below = 0.0f;  // Σ exp(z - z1) without the largest itself: its logarithm loses no digits where that is all but 1
  if (exponential) {
    for (int k = group.thread; k < columns; k += THREADS) below += k == at1 ? 0.0f : expf(to_float(z[k]) - z1);
    below = group.reduce(below, Sum{});
    if (z1 != z1 || isinf(z1)) below = NAN;
  }
  const float total = 1.0f + below;
  const double lead = static_cast<double>(z_to) - z_label;
  Climb climb{};
  if (kind == Kind::kCrossEntropy) {
    const double sign = targeted ? -1.0 : 1.0;
    climb = {sign * (log1pf(below) - (static_cast<double>(z_to) - z1)), sign, -sign, 0.0, 0.0, 0.0};
  } else if (kind == Kind::kMargin) {
    climb = {lead, 0.0, 1.0, -1.0, 0.0, 0.0};
  } else if (kind == Kind::kLogitRatio) {
    const double low = 0.5 * to_float(z[at3]) + 0.5 * to_float(z[at4]);
    const double scale = 1.0 / (z1 - low + 1e-12), slope = lead * scale * scale;
    climb = {lead * scale, 0.0, scale, -scale, -slope, slope};
  } else {
    const double up = expf(z_to - z1) / total, down = expf(z_label - z1) / total;
    climb = {up - down, down - up, up, -down, 0.0, 0.0};
  }
  if (group.thread == 0) {
    arguments.loss[row] = valid ? static_cast<float>(climb.loss) : NAN;
    arguments.prediction[row] = at1;
  }
  T* gradient = static_cast<T*>(arguments.gradient) + row * columns;
  for (int k = group.thread; k < columns; k += THREADS) {
    float g = 0.0f;
    if (exponential) g = static_cast<float>(climb.softmax) * (expf(to_float(z[k]) - z1) / total);
    if (kind == Kind::kCrossEntropy && k == to && k == at1) {
      g = static_cast<float>(climb.softmax) * -(below / total);  // p - 1
    } else if (k == to || k == label || k == at1 || k == at3 || k == at4) {
      double sum = g;
      if (k == to) sum += climb.to;
      if (k == label) sum += climb.label;
      if (k == at1) sum += climb.largest;
      if (k == at3) sum += 0.5 * climb.low;
      if (k == at4) sum += 0.5 * climb.low;
      g = static_cast<float>(sum);
    }
    gradient[k] = from_float<T>(valid ? g : NAN);
  }
}

// On `stream` of the current device, of rows > 0 and columns > 0.
template <typename T>
cudaError_t launch_objective(const Arguments& arguments, cudaStream_t stream) {
  const bool warps = arguments.columns <= kWarpColumns;
  const int64_t blocks = warps ? (arguments.rows + kWarpThreads / 32 - 1) / (kWarpThreads / 32) : arguments.rows;
  return launch(warps ? objective_kernel<T, 32> : objective_kernel<T, kBlockThreads>, blocks,
                warps ? kWarpThreads : kBlockThreads, 0, 1, stream, arguments);
}

}  // namespace regfast::cuda::objectives
