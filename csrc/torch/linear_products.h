// What linear and lora_linear share on the CPU: the gradients of weight and bias.
#pragma once

#include "torch/linear_arguments.h"
#include "torch/products.h"

namespace seo_kernels {

// grad (rows, out), input (rows, in): grad^T input (out, in)
Tensor weight_gradient(const MatrixView& grad, const MatrixView& input, const Tensor& like);

// The gradient of an activation's input, grad_out * activation'(preactivation), and its column sums; either may be
// unwanted. Without an activation the gradient is grad_out itself.
struct RowGradients {
  Tensor gradient, column_sums;
};
RowGradients row_gradients(const Tensor& grad_out, const cpu::OptionalActivation& activation,
                           const OptionalTensor& preactivation, bool sums, ScalarType sums_type);

}  // namespace seo_kernels
