// Between ATen's tensors and the kernels' pointers.
#pragma once

#include <ATen/core/Tensor.h>
// The ops that csrc/cpu calls, one by one: <ATen/ATen.h> takes as long to compile as a kernel.
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/zeros.h>

#include "../include/numeric.h"

namespace regfast {

// ATen's names of the kernels' formats.
template <class T>
struct AtenType {
  using type = T;
};
template <>
struct AtenType<bf16> {
  using type = at::BFloat16;
};
template <>
struct AtenType<fp16> {
  using type = at::Half;
};

template <class T>
T* pointer(const at::Tensor& tensor) {
  return tensor.defined() ? reinterpret_cast<T*>(tensor.data_ptr<typename AtenType<T>::type>()) : nullptr;
}

// Calls run(format) with a value of the kernels' type for the tensor's dtype.
template <class Run>
void with_format(const at::Tensor& tensor, const char* name, Run run) {
  switch (tensor.scalar_type()) {
    case at::kFloat: return run(float());
    case at::kDouble: return run(double());
    case at::kBFloat16: return run(bf16());
    case at::kHalf: return run(fp16());
    default: TORCH_CHECK_TYPE(false, name, " must be float32, bfloat16, float16 or float64, got ", tensor.dtype());
  }
}

inline at::ScalarType accumulator_type(const at::Tensor& tensor) {
  return tensor.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

inline at::Tensor as(const at::Tensor& tensor, at::ScalarType type) {
  return tensor.scalar_type() == type && tensor.is_contiguous() ? tensor : tensor.to(type).contiguous();
}

inline at::Tensor adjacent_columns(const at::Tensor& tensor) {
  return tensor.size(1) <= 1 || tensor.stride(1) == 1 ? tensor : tensor.contiguous();
}

// Rows a thread should have at least, so that its work is worth waking it.
inline int64_t grain(int64_t columns) {
  const int64_t rows = 16384 / (columns > 0 ? columns : 1);
  return rows > 16 ? rows / 16 * 16 : (rows > 1 ? rows : 1);
}

}  // namespace regfast
