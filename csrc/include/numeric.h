// Number formats and elementary functions as plain arithmetic, so that loops over them vectorize on every instruction set.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "isa.h"

namespace regfast {

struct bf16 {
  uint16_t bits;
};
struct fp16 {
  uint16_t bits;
};

// What sums and differences of a format are made in.
template <class T>
struct AccumulatorOf {
  using type = float;
};
template <>
struct AccumulatorOf<double> {
  using type = double;
};
template <class T>
using Accumulator = typename AccumulatorOf<T>::type;

template <class To, class From>
REGFAST_INLINE To bits_as(From value) {
  static_assert(sizeof(To) == sizeof(From), "sizes differ");
  To out;
  std::memcpy(&out, &value, sizeof(To));
  return out;
}

REGFAST_INLINE float load(float value) { return value; }
REGFAST_INLINE double load(double value) { return value; }
REGFAST_INLINE float load(bf16 value) { return bits_as<float>(uint32_t(value.bits) << 16); }
REGFAST_INLINE float load(fp16 value) {
  // The exponent's bias differs by 112: a multiplication by 2^112 rescales normal and subnormal numbers alike.
  const uint32_t magnitude = uint32_t(value.bits & 0x7fff) << 13;
  const float scaled = bits_as<float>(magnitude) * 5.192296858534828e33f;
  const uint32_t special = magnitude | 0x7f800000u;  // inf, NaN
  const uint32_t bits = magnitude >= 0x0f800000u ? special : bits_as<uint32_t>(scaled);
  return bits_as<float>(bits | (uint32_t(value.bits & 0x8000) << 16));
}

// Rounded to nearest, ties to even.
template <class T>
REGFAST_INLINE T store(Accumulator<T> value);
template <>
REGFAST_INLINE float store<float>(float value) {
  return value;
}
template <>
REGFAST_INLINE double store<double>(double value) {
  return value;
}
template <>
REGFAST_INLINE bf16 store<bf16>(float value) {
  const uint32_t bits = bits_as<uint32_t>(value);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1)) >> 16;
  return {uint16_t(value == value ? rounded : 0x7fc0u)};
}
template <>
REGFAST_INLINE fp16 store<fp16>(float value) {
  const uint32_t bits = bits_as<uint32_t>(value);
  const uint32_t magnitude = bits & 0x7fffffffu;
  // Below 2^-14 the float addition of 0.5 rounds to the subnormals' spacing; above, the integer addition rounds.
  const uint32_t subnormal = bits_as<uint32_t>(bits_as<float>(magnitude) + 0.5f) - 0x3f000000u;
  const uint32_t normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1)) >> 13;
  uint32_t half = magnitude < 0x38800000u ? subnormal : normal;
  half = magnitude >= 0x477ff000u ? 0x7c00u : half;
  half = magnitude > 0x7f800000u ? 0x7e00u : half;
  return {uint16_t(half | ((bits >> 16) & 0x8000u))};
}

// The exponential of x ≤ 0 is 0 from here on: 2^n below has no bits left.
template <class A>
constexpr A kLowestExponent = A(-88);
template <>
inline constexpr double kLowestExponent<double> = -709;

// exp(x) for kLowestExponent ≤ x ≤ 0, relative error below 3 units in the last place, 1 at 0; NaN for NaN.
// x = n ln 2 + r; adding 1.5 · 2^(mantissa bits) rounds x / ln 2 to the integer n and leaves n in the low bits, and with
// the exponent's bias added too, those bits shifted up are the float 2^n. r takes one rounding with a fused multiplication
// and addition, and two exact steps without. The polynomial (least largest relative error, 4e-9) goes in pairs: a short chain.
template <bool Fused>
REGFAST_INLINE float exp_in_range(float x) {
  constexpr float kRound = 12582912.0f + 127.0f;
  const float t = x * 1.44269504088896341f + kRound;
  const float n = t - kRound;
  const float r = Fused ? __builtin_fmaf(n, -0.693147182464599609f, x) : (x - n * 0.693359375f) + n * 2.12194440e-4f;
  const float square = r * r;
  const float low = 1.66665211e-1f * r + 4.9999994e-1f, middle = 8.36871658e-3f * r + 4.1668389e-2f;
  const float p = ((1.38145988e-3f * square + middle) * square + low) * square + (r + 1.0f);
  return p * bits_as<float>(bits_as<uint32_t>(t) << 23);
}

template <bool Fused>
REGFAST_INLINE double exp_in_range(double x) {
  constexpr double kRound = 6755399441055744.0 + 1023.0;
  const double t = x * 1.4426950408889634074 + kRound;
  const double n = t - kRound;
  double r = x - n * 6.93147180369123816490e-01;
  r = r - n * 1.90821492927058770002e-10;
  double p = 1.0 / 6227020800.0;  // Taylor: |r| ≤ ln 2 / 2, the first term left out is below 5e-18
  p = p * r + 1.0 / 479001600.0;
  p = p * r + 1.0 / 39916800.0;
  p = p * r + 1.0 / 3628800.0;
  p = p * r + 1.0 / 362880.0;
  p = p * r + 1.0 / 40320.0;
  p = p * r + 1.0 / 5040.0;
  p = p * r + 1.0 / 720.0;
  p = p * r + 1.0 / 120.0;
  p = p * r + 1.0 / 24.0;
  p = p * r + 1.0 / 6.0;
  p = p * r + 0.5;
  p = p * (r * r) + r + 1.0;
  return p * bits_as<double>(bits_as<uint64_t>(t) << 52);
}

// exp(x) for any x ≤ 0. `lowest` is unknown(kLowestExponent): a constant known to it, gcc folds through the
// whole polynomial, and selects among results where one max of the argument does.
template <bool Fused, class A>
REGFAST_INLINE A exp_nonpositive(A x, A lowest) {
  return exp_in_range<Fused>(x < lowest ? lowest : x);
}

// `value`, as something that the compiler knows nothing of.
template <class A>
REGFAST_INLINE A unknown(A value) {
  asm("" : "+m"(value));
  return value;
}

// What rounding took from a - b (Knuth): a - b is `difference` plus this, exactly. NaN for infinities.
template <class A>
REGFAST_INLINE A lost_in_difference(A a, A b, A difference) {
  const A virtual_b = difference - a;
  return (a - (difference - virtual_b)) - (b + virtual_b);
}

// log(1 + x) for x ≥ 0 (or NaN), relative error of some units in the last place also where x is tiny.
REGFAST_INLINE float log1p_nonnegative(float x) {
  const float u = 1.0f + x;
  const float lost = (x - (u - 1.0f)) / u;
  uint32_t bits = bits_as<uint32_t>(u) - 0x3f3504f3u;  // mantissa to [sqrt(1/2), sqrt(2))
  const float n = float(int32_t(bits) >> 23);
  const float f = bits_as<float>((bits & 0x007fffffu) + 0x3f3504f3u) - 1.0f;
  const float z = f * f;
  float p = 7.0376836292e-2f;  // Cephes logf
  p = p * f - 1.1514610310e-1f;
  p = p * f + 1.1676998740e-1f;
  p = p * f - 1.2420140846e-1f;
  p = p * f + 1.4249322787e-1f;
  p = p * f - 1.6668057665e-1f;
  p = p * f + 2.0000714765e-1f;
  p = p * f - 2.4999993993e-1f;
  p = p * f + 3.3333331174e-1f;
  float y = p * f * z;
  y = y - 2.12194440e-4f * n;
  y = y - 0.5f * z;
  y = f + y + 0.693359375f * n + lost;
  return x == x && x < std::numeric_limits<float>::infinity() ? y : x;
}

REGFAST_INLINE double log1p_nonnegative(double x) { return std::log1p(x); }

template <class A>
constexpr A kInfinity = std::numeric_limits<A>::infinity();
template <class A>
constexpr A kNaN = std::numeric_limits<A>::quiet_NaN();

}  // namespace regfast
