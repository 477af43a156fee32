// The row kernels of perturbation and philox. No fused multiply-adds here: their results are those of float32 arithmetic
// operation by operation, hence the same on every machine.
#if defined(__clang__)
#pragma clang fp contract(off)
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=off")
#endif

#include "../include/perturbation.h"

namespace regfast {

REGFAST_CLONES void perturb_step_row(const Step& call) { perturbation::step(call); }
REGFAST_CLONES void random_start_row(const Start& call) { perturbation::start(call); }
REGFAST_CLONES void l1_box_projection_row(const Ball& ball, const float* clean, const float* delta, float* out,
                                          int64_t n) {
  perturbation::l1_project(ball, clean, delta, out, n);
}
REGFAST_CLONES void philox_uniform_row(const PhiloxKey& key, float* draws, int64_t count) {
  philox_uniform(key, draws, count);
}
REGFAST_CLONES void philox_normal_row(const PhiloxKey& key, float* draws, int64_t count) {
  philox_normal(key, draws, count);
}

}  // namespace regfast
