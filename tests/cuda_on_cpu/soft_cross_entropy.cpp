// The kernels of cuda_soft_cross_entropy.cuh as a C library, their threads run by emulator.h.
#include "../../csrc/include/cuda_soft_cross_entropy.cuh"

using namespace regfast::cuda;

namespace {

template <typename T, typename D>
int loss(const LossArguments& arguments, const Device& device) {
  return emulator::status(arguments.dense != nullptr ? launch_loss<T, D, true>(arguments, device, nullptr)
                                                     : launch_loss<T, float, false>(arguments, device, nullptr));
}

Device device_now() {
  Device device{};
  read_device(0, &device);
  return device;
}

}  // namespace

extern "C" {

int64_t size_of_arguments() { return sizeof(LossArguments); }

int64_t shares(int64_t batch) { return most_shares(device_now(), batch); }

// Clusters that a launch over so many float32 logits a row asks for; 0: no cluster is needed.
int clusters(int64_t batch, int columns) {
  const Device device = device_now();
  const LossPlan plan = plan_loss(device, batch, columns, sizeof(float), 0);
  int found = 0;
  if (plan.team_size > 1) {
    active_clusters(long_rows_kernel<float, float, false, 0>, device, plan.threads, plan.shared_bytes, plan.team_size,
                    &found);
  }
  return found;
}

// dtype: 0 float32, 1 float16, 2 bfloat16.
int cross_entropy(const LossArguments* arguments, int dtype, int dense_is_float) {
  const Device device = device_now();
  if (dtype == 0) return loss<float, float>(*arguments, device);
  if (dtype == 1) {
    return dense_is_float ? loss<__half, float>(*arguments, device) : loss<__half, __half>(*arguments, device);
  }
  return dense_is_float ? loss<__nv_bfloat16, float>(*arguments, device)
                        : loss<__nv_bfloat16, __nv_bfloat16>(*arguments, device);
}

int denominator(const LossArguments* arguments, int by_label, float* result, float* partial, int* counter) {
  const Total total{result, partial, counter};
  return emulator::status(launch_denominator(*arguments, by_label != 0, device_now(), total, nullptr));
}

int rescale(void* grad, int dtype, const float* grad_output, int64_t size) {
  const auto as = [&](auto* typed) {
    return emulator::status(launch_rescale(typed, grad_output, size, device_now(), nullptr));
  };
  if (dtype == 0) return as(static_cast<float*>(grad));
  return dtype == 1 ? as(static_cast<__half*>(grad)) : as(static_cast<__nv_bfloat16*>(grad));
}
}
