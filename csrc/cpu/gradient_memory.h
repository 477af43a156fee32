// Memory for large gradients that outlives them: the next step's gradient takes the last one's place.
#pragma once

#include <ATen/core/Tensor.h>

namespace regfast {

// An uninitialized tensor like `tensor`, without gaps. Large ones get the memory of earlier gradients that were freed, as
// tensors on a GPU do from torch's caching allocator.
at::Tensor gradient_like(const at::Tensor& tensor);

}  // namespace regfast
