#include "soft_cross_entropy_rows.h"

namespace regfast {

SPARSE_ROWS(bf16)
DENSE_ROWS(bf16, float)
DENSE_ROWS(bf16, bf16)

}  // namespace regfast
