// A step of every row on CUDA: what it reads and writes, whatever the norm.
#pragma once

#include "cuda_perturbation_rows.cuh"

namespace regfast::cuda::perturbation {

struct StepArguments {
  const float* point;
  const void* gradient;  // the kernel's T
  const float* clean;
  const float* previous;  // null: no momentum
  float* out;             // none of the others; also holds what a row keeps between its passes
  PerRow eps, length, momentum, sparsity;
  Box box;
  int64_t rows;
  int size;  // entries of a row
};

// What a step does to one row: the arrays at the row's beginning, and its numbers.
template <typename T>
struct StepRow {
  const float* point;
  const T* gradient;
  const float* clean;
  const float* previous;
  float* out;
  float eps, length, momentum;
  Box box;

  __device__ __forceinline__ StepRow(const StepArguments& arguments, int64_t row)
      : point(arguments.point + row * arguments.size),
        gradient(static_cast<const T*>(arguments.gradient) + row * arguments.size),
        clean(arguments.clean + row * arguments.size),
        previous(arguments.previous != nullptr ? arguments.previous + row * arguments.size : nullptr),
        out(arguments.out + row * arguments.size),
        eps(arguments.eps[row]),
        length(arguments.length[row]),
        momentum(arguments.momentum[row]),
        box(arguments.box) {}

  __device__ __forceinline__ Slice slice(int begin, int end) const {
    const int one = phase(out + begin);
    const bool same = phase(point + begin) == one && phase(gradient + begin) == one && phase(clean + begin) == one &&
                      (previous == nullptr || phase(previous + begin) == one);
    return slice_of(begin, end, same ? one : -1);
  }

  // point + momentum (moved - point) + (1 - momentum)(point - previous)
  template <int N>
  __device__ __forceinline__ void carry_on(int i, const float (&x)[N], float (&moved)[N]) const {
    float p[N];
    load(previous + i, p);
#pragma unroll
    for (int e = 0; e < N; ++e) {
      moved[e] = add(add(x[e], multiply(momentum, subtract(moved[e], x[e]))),
                     multiply(subtract(1.0f, momentum), subtract(x[e], p[e])));
    }
  }
};

}  // namespace regfast::cuda::perturbation
