// FAB's move, one row (a sample's n entries) at a time: regfast/ops/reference/boundary.py states the formulas.
#pragma once

#include <cmath>
#include <cstdint>

#include "perturbation.h"

namespace regfast {

struct BoundaryStep {
  int64_t n;
  float rise, eta, alpha_max, beta;
  bool across;
  const float* point;
  const float* image;
  const float* slope;
  float* out;  // also holds where the move begins
};

namespace boundary {

using perturbation::clip;
using perturbation::largest;
using perturbation::magnitude;
using perturbation::sign;
using perturbation::total;

constexpr int kRounds = 16;
constexpr float kSmallest = 1e-30f;
constexpr float kShortest = 1e-8f;

// The shortest move from `from` to the plane: entry i goes by sign · min(room, λ |w|^(p - 1)).
template <bool kLinf>
struct Plane {
  int64_t n;
  float way, scale;  // the sign of what is missing; 1 over the largest |w| in l2, whose squares would be 0 in float32
  const float* from;
  const float* slope;
  float level;

  REGFAST_INLINE float weight(int64_t i) const { return kLinf ? magnitude(slope[i]) : magnitude(slope[i]) * scale; }
  REGFAST_INLINE float room(int64_t i) const { return slope[i] * way > 0 ? 1.0f - from[i] : from[i]; }
  REGFAST_INLINE float move(int64_t i) const {
    const float most = room(i), far = kLinf ? level : level * weight(i);
    return sign(slope[i]) * way * (most < far ? most : far);
  }
};

// λ with Σ gain_i · min(λ, stop_i) = missing, or no limit where all stops together fall short. The sum is concave and
// piecewise linear in λ: solving the piece that λ lies on never overshoots.
template <class Gain, class Stop>
REGFAST_INLINE float level(int64_t n, float missing, Gain gain, Stop stop) {
  const float all = float(total(n, gain));
  const float within = float(total(n, [=](int64_t i) __attribute__((always_inline)) { return gain(i) * stop(i); }));
  if (!(within > missing)) return 1 / kSmallest;
  float at = missing / all;
  for (int round = 0; round < kRounds; round++) {
    double reached = 0, free = 0;
    for (int64_t begin = 0; begin < n; begin += perturbation::kBlock) {
      const int64_t end = begin + perturbation::kBlock < n ? begin + perturbation::kBlock : n;
      float part = 0, moving = 0;
#pragma omp simd reduction(+ : part, moving)
      for (int64_t i = begin; i < end; i++) {
        const float most = stop(i), each = gain(i);
        part += each * (most < at ? most : at);
        moving += most > at ? each : 0.0f;
      }
      reached += part, free += moving;
    }
    const float ahead = float((missing - reached) / free);
    if (!(ahead > 1e-6f * at)) break;
    at += ahead;
  }
  return at;
}

template <bool kLinf>
REGFAST_INLINE Plane<kLinf> to_plane(const BoundaryStep& call, const float* from, float scale, float missing) {
  Plane<kLinf> plane{call.n, missing > 0 ? 1.0f : missing < 0 ? -1.0f : 0.0f, scale, from, call.slope, 0};
  if (plane.way == 0) return plane;  // it is there, or nobody knows where
  const auto gain = [=](int64_t i) __attribute__((always_inline)) {
    const float w = plane.weight(i);
    return kLinf ? w : w * w;
  };
  const auto stop = [=](int64_t i) __attribute__((always_inline)) {
    const float w = plane.weight(i);
    return kLinf ? plane.room(i) : plane.room(i) / (w < kSmallest ? kSmallest : w);
  };
  plane.level = level(call.n, magnitude(missing) * scale, gain, stop);
  return plane;
}

template <bool kLinf>
REGFAST_INLINE float length(const Plane<kLinf>& plane) {
  const auto entry = [=](int64_t i) __attribute__((always_inline)) { return magnitude(plane.move(i)); };
  const auto square = [=](int64_t i) __attribute__((always_inline)) { return entry(i) * entry(i); };
  const float found = kLinf ? largest(plane.n, entry) : float(std::sqrt(total(plane.n, square)));
  return found < kShortest ? kShortest : found;
}

template <bool kLinf>
REGFAST_INLINE void step(const BoundaryStep& call) {
  const int64_t n = call.n;
  const float *point = call.point, *image = call.image, *slope = call.slope;
  float* begin = call.out;
  const float beta = call.beta;
  if (call.across) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) begin[i] = image[i] + beta * (point[i] - image[i]);
  } else {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) begin[i] = point[i];
  }
  const float most = kLinf ? 1 : largest(n, [=](int64_t i) __attribute__((always_inline)) { return magnitude(slope[i]); });
  const float scale = 1 / (most < kSmallest ? kSmallest : most);
  const auto missing = [=](const float* from) __attribute__((always_inline)) {
    return float(-call.rise - total(n, [=](int64_t i) __attribute__((always_inline)) {
                   return slope[i] * (from[i] - point[i]);
                 }));
  };
  const auto here = to_plane<kLinf>(call, begin, scale, missing(begin));
  const auto there = to_plane<kLinf>(call, image, scale, missing(image));
  const float near = length(here), far = length(there);
  const float drawn = near / (near + far), alpha = drawn > call.alpha_max ? call.alpha_max : drawn, eta = call.eta;
#pragma omp simd
  for (int64_t i = 0; i < n; i++) {
    const float onward = begin[i] + eta * here.move(i), home = image[i] + eta * there.move(i);
    begin[i] = clip((1 - alpha) * onward + alpha * home, 0.0f, 1.0f);
  }
}

}  // namespace boundary
}  // namespace regfast
