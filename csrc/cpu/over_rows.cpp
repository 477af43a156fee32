#include "over_rows.h"

#include "../include/isa.h"

namespace regfast {

REGFAST_CLONES bool labels_in_range(const int64_t* labels, const int64_t* first, const int64_t* second, int64_t rows,
                                    int64_t classes, int64_t ignore_index) {
  int64_t outside = 0;
#pragma omp simd reduction(| : outside)
  for (int64_t row = 0; row < rows; row++) {
    outside |= ((labels[row] < 0) | (labels[row] >= classes)) & (first[row] != ignore_index) & (second[row] != ignore_index);
  }
  return outside == 0;
}

REGFAST_CLONES int64_t count_others(const int64_t* first, const int64_t* second, int64_t rows, int64_t ignore_index) {
  int64_t count = 0;
#pragma omp simd reduction(+ : count)
  for (int64_t row = 0; row < rows; row++) count += (first[row] != ignore_index) & (second[row] != ignore_index);
  return count;
}

REGFAST_CLONES double sum_float(const float* values, int64_t rows) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t row = 0; row < rows; row++) sum += double(values[row]);
  return sum;
}

REGFAST_CLONES double sum_double(const double* values, int64_t rows) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t row = 0; row < rows; row++) sum += values[row];
  return sum;
}

}  // namespace regfast
