// Class indices in a GPU's memory.
#pragma once

#include "torch/cuda/device.h"
#include "torch/loss_arguments.h"

namespace seo_kernels {

// Throws where an index is out of range, if values are checked at all; the kernels give NaN for its row otherwise.
inline void check_target_values(const Tensor& target, int64_t classes, int64_t ignore_index) {
  if (!checks_values()) return;
  const Tensor copy = on_host(target);
  check_indices(static_cast<const int64_t*>(copy.data_ptr()), copy.numel(), classes, ignore_index);
}

}  // namespace seo_kernels
