// The tier of compute capability 8.0: linear's products in 16 bits on tensor cores, sums in float32.
#pragma once

#include "cuda/executor.h"
#include "cuda/sm80/matmul_params.h"

namespace seo_kernels::cuda::sm80 {

// Of a block.
int64_t matmul_shared_bytes();

// out (rows, columns) = the product, narrowed; neighbouring columns side by side
void matmul(const MatmulParams& p, const MatrixView& out, Stream stream);

}  // namespace seo_kernels::cuda::sm80
