// Moves of attacks, one row (a sample's n entries) at a time; regfast/ops/perturbation.py states the formulas.
// Element-wise arithmetic is float32, operation by operation as the reference does it (compile without contraction to
// fused multiply-adds); norms are summed in blocks with float64 totals.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "philox.h"

namespace regfast {

enum class PerturbationNorm { kLinf, kL2, kL1 };

struct Ball {
  PerturbationNorm norm;
  float eps, lower, upper;
};

struct Step {
  Ball ball;
  float size, momentum, sparsity;
  int64_t n;
  const float* point;
  const float* gradient;
  const float* clean;
  const float* previous;  // null: no momentum
  float* out;
  float* scratch;  // (n) for l1
};

struct Start {
  Ball ball;
  bool sphere;
  int64_t n;
  PhiloxKey key;         // of the uniform draws
  PhiloxKey normal_key;  // of the normal draws
  const float* clean;
  float* out;
};

void perturb_step_row(const Step& call);
void random_start_row(const Start& call);
// out = the projection of delta; may be delta itself.
void l1_box_projection_row(const Ball& ball, const float* clean, const float* delta, float* out, int64_t n);

namespace perturbation {

constexpr float kTiny = 1e-12f;
constexpr int64_t kBlock = 1024;

template <class Term>
REGFAST_INLINE double total(int64_t n, Term term) {
  double sum = 0;
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t end = begin + kBlock < n ? begin + kBlock : n;
    float part = 0;
#pragma omp simd reduction(+ : part)
    for (int64_t i = begin; i < end; i++) part += term(i);
    sum += part;
  }
  return sum;
}

template <class Term>
REGFAST_INLINE float largest(int64_t n, Term term) {
  float m = 0;
#pragma omp simd reduction(max : m)
  for (int64_t i = 0; i < n; i++) {
    const float x = term(i);
    m = x > m ? x : m;
  }
  return m;
}

REGFAST_INLINE float clip(float x, float low, float high) {
  const float y = x < low ? low : x;  // NaN stays
  return y > high ? high : y;
}
REGFAST_INLINE float magnitude(float x) { return x < 0 ? -x : x; }
REGFAST_INLINE float sign(float x) { return x > 0 ? 1.0f : (x < 0 ? -1.0f : x); }

// Least μ ≥ 0 with Σ clip(|δ_i| - μ, 0, room_i) ≤ eps: the sum falls in straight pieces, so Newton's step is exact once μ
// is in the right piece; halving the bracket wherever the step leaves it bounds the count.
template <class Size, class Room>
REGFAST_INLINE double l1_shift(int64_t n, double eps, Size size, Room room) {
  double low = 0, high = largest(n, size), mu = 0;
  for (int i = 0; i < 100; i++) {
    const float at = float(mu);
    double sum = 0, slope = 0;
    for (int64_t begin = 0; begin < n; begin += kBlock) {
      const int64_t end = begin + kBlock < n ? begin + kBlock : n;
      float part = 0, moving = 0;
#pragma omp simd reduction(+ : part, moving)
      for (int64_t j = begin; j < end; j++) {
        const float left = size(j) - at, most = room(j);
        part += clip(left, 0.0f, most);
        moving += left > 0 && left <= most ? 1.0f : 0.0f;
      }
      sum += part, slope += moving;
    }
    if (i == 0 && sum <= eps) return 0;
    (sum > eps ? low : high) = at;
    if (std::abs(sum - eps) <= 1e-7 * eps || !(float(low) < std::nextafter(float(high), 0.0f))) break;
    mu = slope > 0 ? at + (sum - eps) / slope : high;
    if (!(mu > low && mu < high)) mu = 0.5 * (low + high);
  }
  return mu;
}

REGFAST_INLINE void l1_project(const Ball& ball, const float* clean, const float* delta, float* out, int64_t n) {
  const float lower = ball.lower, upper = ball.upper;
  const auto size = [=](int64_t i) __attribute__((always_inline)) { return magnitude(delta[i]); };
  const auto room = [=](int64_t i) __attribute__((always_inline)) {
    const float r = delta[i] > 0 ? upper - clean[i] : clean[i] - lower;
    return r > 0 ? r : 0.0f;
  };
  const float mu = float(l1_shift(n, ball.eps, size, room));
#pragma omp simd
  for (int64_t i = 0; i < n; i++) out[i] = sign(delta[i]) * clip(size(i) - mu, 0.0f, room(i));
}

// Into ball and box, in place.
REGFAST_INLINE void project(const Ball& ball, const float* clean, float* x, int64_t n) {
  const float eps = ball.eps, lower = ball.lower, upper = ball.upper;
  if (ball.norm == PerturbationNorm::kLinf) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) x[i] = clip(clip(x[i], clean[i] - eps, clean[i] + eps), lower, upper);
    return;
  }
#pragma omp simd
  for (int64_t i = 0; i < n; i++) x[i] -= clean[i];
  if (ball.norm == PerturbationNorm::kL1) {
    l1_project(ball, clean, x, x, n);
#pragma omp simd
    for (int64_t i = 0; i < n; i++) x[i] += clean[i];
    return;
  }
  const float length = float(std::sqrt(total(n, [x](int64_t i) __attribute__((always_inline)) { return x[i] * x[i]; })));
  const float reach = length > eps ? eps : length;
#pragma omp simd
  for (int64_t i = 0; i < n; i++) x[i] = clip(clean[i] + x[i] / (length + kTiny) * reach, lower, upper);
}

REGFAST_INLINE void step(const Step& call) {
  const int64_t n = call.n;
  const float *point = call.point, *g = call.gradient;
  float* out = call.out;
  const float size = call.size;
  switch (call.ball.norm) {
    case PerturbationNorm::kLinf:
#pragma omp simd
      for (int64_t i = 0; i < n; i++) out[i] = point[i] + size * sign(g[i]);
      break;
    case PerturbationNorm::kL2: {
      const double square = total(n, [g](int64_t i) __attribute__((always_inline)) { return g[i] * g[i]; });
      const float length = float(std::sqrt(square)) + kTiny;
#pragma omp simd
      for (int64_t i = 0; i < n; i++) out[i] = point[i] + size * (g[i] / length);
      break;
    }
    case PerturbationNorm::kL1: {
      if (n == 0) return;
#pragma omp simd
      for (int64_t i = 0; i < n; i++) call.scratch[i] = magnitude(g[i]);
      const float share = (1.0f - call.sparsity) * float(n);
      const int64_t rank = std::min(n - 1, int64_t(share > 0 ? share : 0));
      std::nth_element(call.scratch, call.scratch + rank, call.scratch + n);
      const float threshold = call.scratch[rank];
      const auto way = [=](int64_t i) __attribute__((always_inline)) {
        return magnitude(g[i]) >= threshold ? sign(g[i]) : 0.0f;
      };
      const float count = float(total(n, [=](int64_t i) __attribute__((always_inline)) { return magnitude(way(i)); }));
      const float norm = count + 1e-10f;
#pragma omp simd
      for (int64_t i = 0; i < n; i++) out[i] = point[i] + size * (way(i) / norm);
      break;
    }
  }
  project(call.ball, call.clean, out, n);
  if (call.previous == nullptr) return;
  const float share = call.momentum;
  const float* previous = call.previous;
#pragma omp simd
  for (int64_t i = 0; i < n; i++) {
    out[i] = point[i] + share * (out[i] - point[i]) + (1 - share) * (point[i] - previous[i]);
  }
  project(call.ball, call.clean, out, n);
}

REGFAST_INLINE void start(const Start& call) {
  const int64_t n = call.n;
  float* out = call.out;
  const float* clean = call.clean;
  const float eps = call.ball.eps, lower = call.ball.lower, upper = call.ball.upper;
  if (call.ball.norm == PerturbationNorm::kLinf) {
    philox_uniform(call.key, out, n);
#pragma omp simd
    for (int64_t i = 0; i < n; i++) out[i] = 2 * out[i] - 1;
    if (call.sphere) {
      const float most = largest(n, [out](int64_t i) __attribute__((always_inline)) { return magnitude(out[i]); }) + kTiny;
#pragma omp simd
      for (int64_t i = 0; i < n; i++) out[i] /= most;
    }
  } else {
    philox_normal(call.normal_key, out, n);
    if (call.ball.norm == PerturbationNorm::kL1) {
      l1_project(call.ball, clean, out, out, n);
#pragma omp simd
      for (int64_t i = 0; i < n; i++) out[i] += clean[i];
      return;
    }
    const double square = total(n, [out](int64_t i) __attribute__((always_inline)) { return out[i] * out[i]; });
    const float length = float(std::sqrt(square)) + kTiny;
    float radius = 1;
    if (!call.sphere) philox_uniform(call.key, &radius, 1);
#pragma omp simd
    for (int64_t i = 0; i < n; i++) out[i] = out[i] / length * radius;
  }
#pragma omp simd
  for (int64_t i = 0; i < n; i++) out[i] = clip(clean[i] + eps * out[i], lower, upper);
}

}  // namespace perturbation
}  // namespace regfast
