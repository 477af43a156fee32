#include "soft_cross_entropy_rows.h"

namespace regfast {

SPARSE_ROWS(float)
DENSE_ROWS(float, float)

}  // namespace regfast
