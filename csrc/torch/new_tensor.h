// New tensors on the CPU. Large ones lie in memory that earlier ones have left: a training step makes the same tensors
// again and again, and what the system hands out anew it fills with zeros first, page by page.
#pragma once

#include <vector>

#include "torch/tensors.h"

namespace seo_kernels {

// A new tensor like another, uninitialised or zero.
Tensor make_tensor(const Tensor& like, const std::vector<int64_t>& shape, ScalarType type, bool zero = false);

}  // namespace seo_kernels
