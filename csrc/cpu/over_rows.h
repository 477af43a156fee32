// Loops over one number a row, which at few classes cost as much as the loss if they run one row after the other.
#pragma once

#include <cstdint>

namespace regfast {

// Rows are ignored where `first` or `second` is ignore_index; without a second label both are the same.

// Whether every label of a row that is not ignored lies in [0, classes).
bool labels_in_range(const int64_t* labels, const int64_t* first, const int64_t* second, int64_t rows, int64_t classes,
                     int64_t ignore_index);
int64_t count_others(const int64_t* first, const int64_t* second, int64_t rows, int64_t ignore_index);
double sum_float(const float* values, int64_t rows);
double sum_double(const double* values, int64_t rows);

}  // namespace regfast
