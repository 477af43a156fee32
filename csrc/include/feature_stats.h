// RMS of feature rows and their cosines to center rows, and the gradient of both.
#pragma once

#include <cmath>
#include <cstdint>

#include "numeric.h"

namespace regfast {

template <class T>
struct FeatureStats {
  using A = Accumulator<T>;
  int64_t width = 0;
  const T* features = nullptr;
  int64_t features_stride = 0;
  const A* centers = nullptr;  // adjacent rows; null: rms alone
  const int64_t* labels = nullptr;
  const int64_t* predictions = nullptr;  // null: no cosine_predicted
  int64_t ignore_index = -100;
  // forward: results. backward: their gradients (null: zero), and `grad`.
  A* rms = nullptr;
  A* cosine = nullptr;
  A* cosine_predicted = nullptr;
  T* grad = nullptr;
  int64_t grad_stride = 0;
};

// Rows begin … end - 1; labels and predictions in range, or a label equal to ignore_index.
template <class T>
void feature_stats_rows(const FeatureStats<T>& call, int64_t begin, int64_t end);
template <class T>
void feature_stats_gradient_rows(const FeatureStats<T>& call, int64_t begin, int64_t end);

namespace features {

// ‖v‖², ‖c‖² and v·c for the own and the predicted class's center.
struct Products {
  double vv = 0, cc = 0, vc = 0, pp = 0, vp = 0;
};

template <class T, class A>
REGFAST_INLINE Products products(const T* v, const A* c, const A* p, int64_t width) {
  constexpr int64_t kBlock = 1024;
  Products total;
  for (int64_t begin = 0; begin < width; begin += kBlock) {
    const int64_t end = begin + kBlock < width ? begin + kBlock : width;
    A vv = 0, cc = 0, vc = 0, pp = 0, vp = 0;
    if (c != nullptr && p != nullptr && c != p) {
#pragma omp simd reduction(+ : vv, cc, vc, pp, vp)
      for (int64_t i = begin; i < end; i++) {
        const A x = load(v[i]);
        vv += x * x, cc += c[i] * c[i], vc += x * c[i], pp += p[i] * p[i], vp += x * p[i];
      }
    } else if (c != nullptr || p != nullptr) {
      const A* one = c != nullptr ? c : p;
#pragma omp simd reduction(+ : vv, cc, vc)
      for (int64_t i = begin; i < end; i++) {
        const A x = load(v[i]);
        vv += x * x, cc += one[i] * one[i], vc += x * one[i];
      }
      pp = cc, vp = vc;
    } else {
#pragma omp simd reduction(+ : vv)
      for (int64_t i = begin; i < end; i++) {
        const A x = load(v[i]);
        vv += x * x;
      }
    }
    total.vv += vv, total.cc += cc, total.vc += vc, total.pp += pp, total.vp += vp;
  }
  return total;
}

REGFAST_INLINE double cosine(double dot, double a, double b) {
  return a > 0 && b > 0 ? dot / (std::sqrt(a) * std::sqrt(b)) : (a >= 0 && b >= 0 ? 0.0 : a + b);  // NaN stays
}

template <class T>
REGFAST_INLINE void row_centers(const FeatureStats<T>& call, int64_t row, const Accumulator<T>*& own,
                                const Accumulator<T>*& predicted) {
  own = predicted = nullptr;
  if (call.centers == nullptr) return;
  if (call.labels[row] != call.ignore_index) own = call.centers + call.labels[row] * call.width;
  if (call.predictions != nullptr) predicted = call.centers + call.predictions[row] * call.width;
}

template <class T>
REGFAST_INLINE void forward(const FeatureStats<T>& call, int64_t begin, int64_t end) {
  using A = Accumulator<T>;
  for (int64_t row = begin; row < end; row++) {
    const A *own, *predicted;
    row_centers(call, row, own, predicted);
    const Products s = products(call.features + row * call.features_stride, own, predicted, call.width);
    call.rms[row] = A(std::sqrt(s.vv / double(call.width)));
    if (call.cosine != nullptr) call.cosine[row] = own == nullptr ? kNaN<A> : A(cosine(s.vc, s.vv, s.cc));
    if (call.cosine_predicted != nullptr) call.cosine_predicted[row] = A(cosine(s.vp, s.vv, s.pp));
  }
}

template <class T>
REGFAST_INLINE void backward(const FeatureStats<T>& call, int64_t begin, int64_t end) {
  using A = Accumulator<T>;
  for (int64_t row = begin; row < end; row++) {
    const T* v = call.features + row * call.features_stride;
    T* grad = call.grad + row * call.grad_stride;
    const A *own, *predicted;
    row_centers(call, row, own, predicted);
    if (call.cosine == nullptr) own = nullptr;
    if (call.cosine_predicted == nullptr) predicted = nullptr;
    const Products s = products(v, own, predicted, call.width);
    const double length = std::sqrt(s.vv);
    double along_v = 0, along_own = 0, along_predicted = 0;
    if (length > 0 && call.rms != nullptr) along_v = call.rms[row] / (length * std::sqrt(double(call.width)));
    if (own != nullptr && length > 0 && s.cc > 0) {
      along_own = call.cosine[row] / (length * std::sqrt(s.cc));
      along_v -= call.cosine[row] * cosine(s.vc, s.vv, s.cc) / s.vv;
    }
    if (predicted != nullptr && length > 0 && s.pp > 0) {
      along_predicted = call.cosine_predicted[row] / (length * std::sqrt(s.pp));
      along_v -= call.cosine_predicted[row] * cosine(s.vp, s.vv, s.pp) / s.vv;
    }
    const A a = A(along_v), b = A(along_own), c = A(along_predicted);
    const A* first = own != nullptr ? own : (predicted != nullptr ? predicted : nullptr);
    const A* second = predicted != nullptr ? predicted : first;
    if (first == nullptr) {
#pragma omp simd
      for (int64_t i = 0; i < call.width; i++) grad[i] = store<T>(a * load(v[i]));
    } else {
#pragma omp simd
      for (int64_t i = 0; i < call.width; i++) grad[i] = store<T>(a * load(v[i]) + b * first[i] + c * second[i]);
    }
  }
}

}  // namespace features
}  // namespace regfast
