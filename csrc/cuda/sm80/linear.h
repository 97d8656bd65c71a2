// The tier of compute capability 8.0: linear's products in 16 bits on tensor cores, sums in float32.
#pragma once

#include "cuda/executor.h"
#include "cuda/sm80/matmul_params.h"
#include "semantics/activation.h"

namespace seo_kernels::cuda::sm80 {

// Of a block.
int64_t matmul_shared_bytes();

// out (rows, columns) = the product, narrowed. Neighbouring columns of out lie side by side.
void matmul(const MatmulParams& p, const MatrixView& out, Stream stream);

// out = activation(preactivation), preactivation = the product + bias, narrowed
struct LinearForwardParams {
  MatmulParams product;         // its left operand in rows
  const float* bias = nullptr;  // (columns,) or null
  bool activates = false;       // otherwise out is the preactivation
  Activation activation{};
  double negative_slope = 0.01;
  MatrixView out, preactivation;  // neighbouring columns side by side; the latter may be absent
};
void linear_forward(const LinearForwardParams& p, Stream stream);

}  // namespace seo_kernels::cuda::sm80
