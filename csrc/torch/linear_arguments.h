// What linear and lora_linear share: checks of their arguments, and the gradients of weight and bias.
#pragma once

#include <string>

#include "torch/products.h"

namespace seo_kernels {

// float64 accumulates in float64, all else in float32.
ScalarType acc_type_of(const Tensor& tensor);

// input (..., in), weight (out, in), bias (out,), all of input's floating dtype; the bias's may differ. Throws
// std::invalid_argument.
void check_linear(const Tensor& input, const Tensor& weight, const OptionalTensor& bias);

// grad_out (..., out) for this input and weight
void check_grad_out(const Tensor& grad_out, const Tensor& input, const Tensor& weight);

// The shape of input with out_features last.
std::vector<int64_t> output_shape(const Tensor& input, const Tensor& weight);

// The matrix with neighbouring columns side by side; the tensor is replaced by a contiguous copy where they are not.
MatrixView rows_of(Tensor& tensor, const char* name);

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
