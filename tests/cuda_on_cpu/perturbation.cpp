// The kernels of cuda_perturbation.cuh and cuda_random_start.cuh as a C library, their threads run by emulator.h.
#include "../../csrc/include/cuda_perturbation.cuh"
#include "../../csrc/include/cuda_random_start.cuh"

using namespace regfast::cuda;
using namespace regfast::cuda::perturbation;

namespace {

Device device_now() {
  Device device{};
  read_device(0, &device);
  return device;
}

}  // namespace

extern "C" {

int64_t size_of_step() { return sizeof(StepArguments); }
int64_t size_of_start() { return sizeof(StartArguments); }
int64_t size_of_projection() { return sizeof(ProjectionArguments); }

// norm: 0 linf, 1 l2, 2 l1. dtype, of the gradient: 0 float32, 1 float16, 2 bfloat16.
int step(const StepArguments* arguments, int norm, int dtype) {
  if (dtype == 0) return emulator::status(launch_step<float>(*arguments, Norm(norm), device_now(), nullptr));
  if (dtype == 1) return emulator::status(launch_step<__half>(*arguments, Norm(norm), device_now(), nullptr));
  return emulator::status(launch_step<__nv_bfloat16>(*arguments, Norm(norm), device_now(), nullptr));
}

int start(const StartArguments* arguments, int norm) {
  return emulator::status(launch_start(*arguments, Norm(norm), device_now(), nullptr));
}

int projection(const ProjectionArguments* arguments) {
  return emulator::status(launch_l1_projection(*arguments, device_now(), nullptr));
}
}
