#include "soft_cross_entropy_rows.h"

namespace regfast {

SPARSE_ROWS(fp16)
DENSE_ROWS(fp16, float)
DENSE_ROWS(fp16, fp16)

}  // namespace regfast
