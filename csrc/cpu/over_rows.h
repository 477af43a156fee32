// Loops over one number a row, which at few classes cost as much as the loss if they run one row after the other.
#pragma once

#include <cstdint>

namespace regfast {

// Whether every label lies in [0, classes) or belongs to a row whose `first` is ignore_index.
bool labels_in_range(const int64_t* labels, const int64_t* first, int64_t rows, int64_t classes, int64_t ignore_index);
int64_t count_others(const int64_t* labels, int64_t rows, int64_t ignore_index);
double sum_float(const float* values, int64_t rows);
double sum_double(const double* values, int64_t rows);

}  // namespace regfast
