// The tier of compute capability 9.0 alone: products of linear and lora_linear by warpgroups, where the copy engine can
// bring operands.
#pragma once

#include <string>

#include "cuda/sm80/linear.h"
#include "cuda/sm80/lora.h"

namespace seo_kernels::cuda::sm90 {

// Of a block.
int64_t matmul_shared_bytes();
// Why the operands cannot be brought; "" where they can.
std::string refusal_of_operands(const MatmulParams& p);

// As those of sm80.
void matmul(const MatmulParams& p, const MatrixView& out, Stream stream);
void linear_forward(const sm80::LinearForwardParams& p, Stream stream);
void lora_dropped_product(const MatmulParams& p, const Dropout& dropout, const MatrixView& out, Stream stream);

}  // namespace seo_kernels::cuda::sm90
