// PGD on features through a linear head, a sample's whole loop at once: see regfast/ops/feature_attack.py.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "isa.h"
#include "numeric.h"

namespace regfast {

struct FeatureAttack {
  int64_t classes, width, steps;
  const double* logits;   // (B, classes) of the clean features
  const double* rows;     // (classes, width)
  const double* columns;  // the same, transposed: (width, classes)
  const int64_t* labels;
  const double* eps;
  const double* step_size;
  bool linf, margin;
  double* delta;    // (B, width), zeros: becomes the displacement
  double* scratch;  // 2 classes + width
};

namespace feature_attack {

// Largest logit of the classes other than `label`.
REGFAST_INLINE int64_t rival(const double* z, int64_t classes, int64_t label) {
  int64_t best = label == 0 ? 1 : 0;
  for (int64_t k = best + 1; k < classes; k++) {
    if (k != label && z[k] > z[best]) best = k;
  }
  return best;
}

REGFAST_INLINE void row(const FeatureAttack& call, int64_t at) {
  const int64_t classes = call.classes, width = call.width, label = call.labels[at];
  const double* clean = call.logits + at * classes;
  const double* own = call.rows + label * width;
  const double eps = call.eps[at], size = call.step_size[at];
  double* delta = call.delta + at * width;
  double* z = call.scratch;
  double* share = z + classes;
  double* slope = share + classes;
  const double lowest = unknown(kLowestExponent<double>);

  for (int64_t k = 0; k < classes; k++) z[k] = clean[k];
  int64_t best = rival(z, classes, label);
  // A sample that is lost stays where it was lost; what is NaN is not right either.
  for (int64_t step = 0; step < call.steps && z[label] > z[best]; step++) {
    for (int64_t j = 0; j < width; j++) slope[j] = -own[j];
    if (call.margin) {
      const double* other = call.rows + best * width;
      for (int64_t j = 0; j < width; j++) slope[j] += other[j];
    } else {
      double sum = 0;
      // The label's own entry may overflow on the way; it is not looked at.
      for (int64_t k = 0; k < classes; k++) share[k] = exp_nonpositive<false>(z[k] - z[best], lowest);
      share[label] = 0;
      for (int64_t k = 0; k < classes; k++) sum += share[k];
      for (int64_t k = 0; k < classes; k++) {
        const double weight = share[k] / sum;
        const double* other = call.rows + k * width;
        for (int64_t j = 0; j < width; j++) slope[j] += weight * other[j];
      }
    }
    if (call.linf) {
      for (int64_t j = 0; j < width; j++) {
        const double sign = static_cast<double>(slope[j] > 0) - static_cast<double>(slope[j] < 0);
        const double moved = delta[j] + size * sign;
        delta[j] = moved > eps ? eps : moved < -eps ? -eps : moved;
      }
    } else {
      double square = 0;
      for (int64_t j = 0; j < width; j++) square += slope[j] * slope[j];
      const double length = std::sqrt(square), least = std::numeric_limits<double>::min();
      const double pace = size / (length > least ? length : least);
      square = 0;
      for (int64_t j = 0; j < width; j++) {
        delta[j] += pace * slope[j];
        square += delta[j] * delta[j];
      }
      const double norm = std::sqrt(square);
      if (norm > eps) {
        for (int64_t j = 0; j < width; j++) delta[j] *= eps / norm;
      }
    }
    for (int64_t k = 0; k < classes; k++) z[k] = clean[k];
    for (int64_t j = 0; j < width; j++) {
      const double along = delta[j];
      const double* column = call.columns + j * classes;
      for (int64_t k = 0; k < classes; k++) z[k] += along * column[k];
    }
    best = rival(z, classes, label);
  }
}

}  // namespace feature_attack
}  // namespace regfast
