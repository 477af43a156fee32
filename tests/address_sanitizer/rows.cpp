// The loss's row kernels over buffers of exactly their size, for AddressSanitizer: rows, classes and strides that leave
// remainders everywhere, every target and every result. Prints how many calls it made.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <random>
#include <type_traits>
#include <utility>
#include <vector>

#include "soft_cross_entropy.h"
#include "soft_cross_entropy_long.h"
#include "soft_cross_entropy_short.h"

namespace regfast {

template <bool Dense, bool Fused, class T, class P>
REGFAST_INLINE void rows(const SoftCrossEntropy<T, P>& call, int64_t begin, int64_t end) {
  if (call.classes <= short_rows::kMostClasses) short_rows::rows<Dense, Fused>(call, begin, end);
  else long_rows::rows<Dense, Fused>(call, begin, end);
}

#define DENSE_ROWS(T, P)                                                                                   \
  REGFAST_VERSIONS(void dense_##T##_##P(const SoftCrossEntropy<T, P>& call, int64_t begin, int64_t end),   \
                   rows<true, kFused>(call, begin, end);)                                                  \
  void dense_rows(const SoftCrossEntropy<T, P>& call, int64_t begin, int64_t end) {                        \
    dense_##T##_##P(call, begin, end);                                                                     \
  }
#define SPARSE_ROWS(T)                                                                                     \
  REGFAST_VERSIONS(void sparse_rows(const SoftCrossEntropy<T, T>& call, int64_t begin, int64_t end),       \
                   rows<false, kFused>(call, begin, end);)
#ifdef SIXTEEN_BITS
SPARSE_ROWS(bf16)
SPARSE_ROWS(fp16)
DENSE_ROWS(bf16, bf16)
DENSE_ROWS(fp16, fp16)
DENSE_ROWS(bf16, float)
DENSE_ROWS(fp16, float)
#else
SPARSE_ROWS(float)
SPARSE_ROWS(double)
DENSE_ROWS(float, float)
DENSE_ROWS(double, double)
#endif

}  // namespace regfast

namespace {

std::mt19937 draw;

// Exactly n numbers on the heap: what lies before and after is poisoned.
template <class T>
std::vector<T> some(int64_t n, double low, double high) {
  std::vector<T> values(n);
  std::uniform_real_distribution<double> number(low, high);
  for (T& value : values) value = regfast::store<T>(regfast::Accumulator<T>(number(draw)));
  return values;
}

std::vector<int64_t> labels(int64_t n, int64_t classes) {
  std::vector<int64_t> values(n);
  for (int64_t& value : values) value = draw() % 7 == 0 ? -100 : int64_t(draw() % classes);
  return values;
}

// T: format of logits and gradient, P: format of a dense target.
template <class T, class P = T>
int64_t calls(int64_t count, int64_t classes, int64_t gap) {
  using A = regfast::Accumulator<T>;
  const int64_t stride = classes + gap, size = (count - 1) * stride + classes;
  int64_t made = 0;
  for (int options = 0; options < 64; options++) {
    const bool dense = options & 1, weighted = options & 2, stats = options & 4, in_place = options & 8;
    const bool backward = options & 16, mixed = options & 32;
    auto logits = some<T>(size, -30, 30), grad = some<T>(size, 0, 0);
    auto target = some<P>(size, 0, 1);
    auto class_weight = some<A>(classes, 0, 1), sample_weight = some<A>(count, 0, 1), lam = some<A>(count, 0, 1);
    auto scale = some<A>(count, 0, 2), loss = some<A>(count, 0, 0), given = some<A>(5 * count, -1, 1);
    auto first = labels(count, classes), second = labels(count, classes);
    auto log_partition = loss, confidence = loss, entropy = loss, margin = loss, scratch = some<A>(classes, 0, 0);
    std::vector<int64_t> prediction(count), label(count);
    regfast::SoftCrossEntropy<T, P> call;
    call.classes = classes, call.logits = logits.data(), call.logits_stride = stride, call.smoothing = 0.1;
    if (dense) call.dense = target.data(), call.dense_stride = stride;
    else call.first = first.data();
    if (!dense && mixed) call.second = second.data(), call.lam = lam.data(), call.lam_stride = 1;
    call.class_weight_sum = double(classes);
    if (weighted) {
      call.class_weight = class_weight.data(), call.sample_weight = sample_weight.data(), call.z_loss = 0.1;
    }
    call.loss = loss.data(), call.stats = stats, call.scratch = scratch.data();
    if (in_place || backward) {
      call.grad = in_place ? logits.data() : grad.data(), call.grad_stride = stride;
      call.grad_scale = scale.data(), call.grad_scale_stride = 1;
    }
    if (stats) {
      call.log_partition = log_partition.data(), call.confidence = confidence.data();
      call.entropy = entropy.data(), call.margin = margin.data();
      call.prediction = prediction.data(), call.label = label.data();
    }
    if (stats && backward) call.grad_statistics = given.data(), call.statistics = count;
    const int64_t middle = draw() % (count + 1);  // as two threads would share the rows
    for (const auto [begin, end] : {std::pair(int64_t(0), middle), std::pair(middle, count)}) {
      if constexpr (std::is_same_v<T, P>) {
        if (!dense) regfast::sparse_rows(call, begin, end);
      }
      if (dense) regfast::dense_rows(call, begin, end);
      made += dense || std::is_same_v<T, P>;
    }
  }
  return made;
}

}  // namespace

// Arguments: a seed, and "overrun" for a fault that has to be found.
int main(int count, char** arguments) {
  draw.seed(uint32_t(std::strtoull(arguments[1], nullptr, 10)));
  int64_t made = 0;
  for (const int64_t rows : {1, 3, 8, 17, 35}) {
    for (const int64_t classes : {1, 2, 3, 4, 5, 7, 15, 16, 17, 31, 63, 64, 65, 66, 127, 130, 255, 1003, 4099}) {
      for (const int64_t gap : {0, 1, 3}) {
#ifdef SIXTEEN_BITS
        made += calls<regfast::bf16>(rows, classes, gap) + calls<regfast::fp16>(rows, classes, gap);
        made += calls<regfast::bf16, float>(rows, classes, gap) + calls<regfast::fp16, float>(rows, classes, gap);
#else
        made += calls<float>(rows, classes, gap) + calls<double>(rows, classes, gap);
#endif
      }
    }
  }
  std::printf("%lld calls\n", static_cast<long long>(made));
  return count > 2 ? int(some<float>(8, 0, 1).data()[8]) : 0;
}
