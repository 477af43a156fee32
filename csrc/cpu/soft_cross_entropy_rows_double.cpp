#include "soft_cross_entropy_rows.h"

namespace regfast {

SPARSE_ROWS(double)
DENSE_ROWS(double, double)

}  // namespace regfast
