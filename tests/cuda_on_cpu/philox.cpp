// The kernels of cuda_philox.cuh as a C library, their threads run by emulator.h.
#include "../../csrc/include/cuda_philox.cuh"

using namespace regfast::cuda;

extern "C" {

int draws(float* out, const int64_t* samples, const int64_t* restarts, const int64_t* steps, uint64_t seed, int64_t stage,
          int64_t rows, int count, int normal) {
  return emulator::status(
      launch_draws({out, samples, restarts, steps, seed, stage, rows, count}, normal != 0, nullptr));
}
}
