// Whether what is started now is recorded into a CUDA graph, to run again later.
#pragma once

#include "cuda/executor.h"

namespace seo_kernels::cuda {

bool is_captured(Stream stream);

}  // namespace seo_kernels::cuda
