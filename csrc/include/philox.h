// Philox4x32-10 (Salmon et al., SC 2011), with the counters that docs/design.md gives every draw.
#pragma once

#include <cstdint>

#include "isa.h"

namespace regfast {

struct PhiloxKey {
  uint32_t low, high;              // of the seed, the second xor-ed with the sample id's high bits
  uint32_t sample, place, step;    // counter words 1 to 3; word 0 is the block
};

REGFAST_EVERYWHERE PhiloxKey philox_key(uint64_t seed, int64_t sample, int64_t stage, int64_t restart, int64_t step) {
  return {uint32_t(seed), uint32_t(seed >> 32) ^ uint32_t(uint64_t(sample) >> 32), uint32_t(sample),
          uint32_t((stage << 24) | restart), uint32_t(step)};
}

REGFAST_EVERYWHERE void philox(const PhiloxKey& key, uint32_t block, uint32_t words[4]) {
  uint32_t c0 = block, c1 = key.sample, c2 = key.place, c3 = key.step, k0 = key.low, k1 = key.high;
  for (int round = 0; round < 10; round++) {
    const uint64_t a = uint64_t(0xD2511F53u) * c0, b = uint64_t(0xCD9E8D57u) * c2;
    const uint32_t n0 = uint32_t(b >> 32) ^ c1 ^ k0, n2 = uint32_t(a >> 32) ^ c3 ^ k1;
    c1 = uint32_t(b), c3 = uint32_t(a), c0 = n0, c2 = n2;
    k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
  }
  words[0] = c0, words[1] = c1, words[2] = c2, words[3] = c3;
}

// Draws 0 … count - 1 in [0, 1).
REGFAST_INLINE void philox_uniform(const PhiloxKey& key, float* draws, int64_t count) {
  const int64_t whole = count / 4;
#pragma omp simd
  for (int64_t block = 0; block < whole; block++) {
    uint32_t words[4];
    philox(key, uint32_t(block), words);
    for (int i = 0; i < 4; i++) draws[4 * block + i] = float(words[i] >> 8) * 0x1p-24f;
  }
  if (4 * whole < count) {
    uint32_t words[4];
    philox(key, uint32_t(whole), words);
    for (int64_t i = 4 * whole; i < count; i++) draws[i] = float(words[i - 4 * whole] >> 8) * 0x1p-24f;
  }
}

// Normal draws 0 … count - 1: a sum of twelve 10-bit integers each. `key` is that of the stage with bit 7 set.
REGFAST_INLINE void philox_normal(const PhiloxKey& key, float* draws, int64_t count) {
  constexpr float kScale = 0x1.000008p-10f;  // 1 / sqrt(2^20 - 1), rounded to float
#pragma omp simd
  for (int64_t block = 0; block < count; block++) {
    uint32_t words[4];
    philox(key, uint32_t(block), words);
    uint32_t sum = 0;
    for (int i = 0; i < 4; i++) sum += (words[i] & 1023) + ((words[i] >> 10) & 1023) + ((words[i] >> 20) & 1023);
    draws[block] = float(int32_t(sum) - 6138) * kScale;
  }
}

void philox_uniform_row(const PhiloxKey& key, float* draws, int64_t count);
void philox_normal_row(const PhiloxKey& key, float* draws, int64_t count);

}  // namespace regfast
