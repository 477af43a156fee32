// FAB's move, one row (a sample's n entries) at a time: regfast/ops/reference/boundary.py states the formulas.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "numeric.h"
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
constexpr float kLeast = std::numeric_limits<float>::min();
constexpr float kShortest = 1e-8f;

constexpr auto kL1 = PerturbationNorm::kL1, kL2 = PerturbationNorm::kL2, kLinf = PerturbationNorm::kLinf;

// The shortest move from `from` to the plane: entry i goes by sign · min(room, λ |w|^(p - 1)), in l1 by all of its room
// where its weight is the larger. `way`: the sign of what is missing.
template <PerturbationNorm kNorm>
struct Plane {
  int64_t n;
  float way, scale;  // scale: 1 over the largest |w| with room, but in linf: squares of small ones would be 0 in float32
  const float* from;
  const float* slope;
  float level;        // λ; in l1 the least weight that moves
  float part = 0;     // in l1: how far entry `last` of that weight moves. Those before it move all the way, none after it
  int64_t last = 0;

  REGFAST_INLINE float room(int64_t i) const { return slope[i] * way > 0 ? 1.0f - from[i] : from[i]; }
  REGFAST_INLINE float weight(int64_t i) const {
    if (kNorm == kLinf) return magnitude(slope[i]);
    return room(i) > 0 ? magnitude(slope[i]) * scale : 0.0f;
  }
  REGFAST_INLINE float move(int64_t i) const {
    const float most = room(i), w = weight(i);
    float far = kNorm == kLinf ? level : level * w;
    if (kNorm == kL1) far = w > level || (w == level && i < last) ? most : (w == level && i == last ? part : 0.0f);
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

// In l1 the heaviest entries go first, each all the way: the least weight among them, by halving the numbers between 0 and
// the largest (floats that are not negative order as their bits do).
REGFAST_INLINE void heaviest(Plane<kL1>& plane, float missing) {
  const int64_t n = plane.n;
  const auto rise_above = [=, &plane](float least) __attribute__((always_inline)) {
    return float(total(n, [=, &plane](int64_t i) __attribute__((always_inline)) {
      const float w = plane.weight(i);
      return w > least ? w * plane.room(i) : 0.0f;
    }));
  };
  plane.level = 0;
  if (!(rise_above(0) > missing)) return;
  uint32_t low = 0, high = bits_as<uint32_t>(largest(n, [&](int64_t i) __attribute__((always_inline)) { return plane.weight(i); }));
  while (high - low > 1) {
    const uint32_t middle = low + (high - low) / 2;
    (rise_above(bits_as<float>(middle)) > missing ? low : high) = middle;
  }
  plane.level = bits_as<float>(high);
  double rest = double(missing) - rise_above(plane.level);  // of many equal weights one after the other
  for (plane.last = 0; plane.last < n; plane.last++) {
    if (plane.weight(plane.last) != plane.level) continue;
    const float rise = plane.level * plane.room(plane.last);
    if (rise > rest) break;
    rest -= rise;
  }
  plane.part = float((rest > 0 ? rest : 0) / plane.level);
}

template <PerturbationNorm kNorm>
REGFAST_INLINE Plane<kNorm> to_plane(const BoundaryStep& call, const float* from, float missing) {
  Plane<kNorm> plane{call.n, missing > 0 ? 1.0f : missing < 0 ? -1.0f : 0.0f, 1, from, call.slope, 0};
  if (plane.way == 0) return plane;  // it is there, or nobody knows where
  if (kNorm != kLinf) {
    const float most = largest(call.n, [=](int64_t i) __attribute__((always_inline)) { return plane.weight(i); });
    plane.scale = 1 / (most < kLeast ? kLeast : most);
  }
  const float scale = plane.scale;
  if constexpr (kNorm == kL1) {
    heaviest(plane, magnitude(missing) * scale);
  } else {
    const auto gain = [=](int64_t i) __attribute__((always_inline)) {
      const float w = plane.weight(i);
      return kNorm == kLinf ? w : w * w;
    };
    const auto stop = [=](int64_t i) __attribute__((always_inline)) {
      const float w = plane.weight(i);
      return kNorm == kLinf ? plane.room(i) : plane.room(i) / (w < kSmallest ? kSmallest : w);
    };
    plane.level = level(call.n, magnitude(missing) * scale, gain, stop);
  }
  return plane;
}

template <PerturbationNorm kNorm>
REGFAST_INLINE float length(const Plane<kNorm>& plane) {
  const auto entry = [=](int64_t i) __attribute__((always_inline)) { return magnitude(plane.move(i)); };
  const auto square = [=](int64_t i) __attribute__((always_inline)) { return entry(i) * entry(i); };
  float found;
  if (kNorm == kLinf) found = largest(plane.n, entry);
  else if (kNorm == kL2) found = float(std::sqrt(total(plane.n, square)));
  else found = float(total(plane.n, entry));
  return found < kShortest ? kShortest : found;
}

template <PerturbationNorm kNorm>
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
  const auto missing = [=](const float* from) __attribute__((always_inline)) {
    return float(-call.rise - total(n, [=](int64_t i) __attribute__((always_inline)) {
                   return slope[i] * (from[i] - point[i]);
                 }));
  };
  const auto here = to_plane<kNorm>(call, begin, missing(begin));
  const auto there = to_plane<kNorm>(call, image, missing(image));
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
