// The kernels of cuda_objective.cuh as a C library, their threads run by emulator.h.
#include "../../csrc/include/cuda_objective.cuh"

using namespace regfast::cuda::objectives;

extern "C" {

int64_t size_of_arguments() { return sizeof(Arguments); }

// dtype: 0 float32, 1 float16, 2 bfloat16.
int objective(const Arguments* arguments, int dtype) {
  if (dtype == 0) return emulator::status(launch_objective<float>(*arguments, nullptr));
  if (dtype == 1) return emulator::status(launch_objective<__half>(*arguments, nullptr));
  return emulator::status(launch_objective<__nv_bfloat16>(*arguments, nullptr));
}
}
