// Checks of bias_act and gated_act on every device.
#pragma once

#include "torch/tensors.h"

namespace seo_kernels {

inline void check_activation_input(const Tensor& input) {
  if (dtype_of(input, "input") == DType::kBool) throw std::invalid_argument("input must be floating");
}

inline void check_same(const Tensor& tensor, const char* name, const std::vector<int64_t>& shape, const Tensor& input) {
  check_shape(tensor, name, shape);
  if (tensor.scalar_type() != input.scalar_type()) {
    throw std::invalid_argument(std::string(name) + " must have input's dtype");
  }
}

inline void check_activation_bias(const Tensor& input, const OptionalTensor& bias) {
  if (!bias) return;
  if (input.dim() == 0) throw std::invalid_argument("input has shape (), expected (..., n) beside a bias");
  check_shape(*bias, "bias", {input.size(input.dim() - 1)});
  if (dtype_of(*bias, "bias") == DType::kBool) throw std::invalid_argument("bias must be floating");
}

// Shape of gate, up and out; checks that input and up fit.
inline std::vector<int64_t> gated_shape(const Tensor& input, const OptionalTensor& up) {
  check_activation_input(input);
  std::vector<int64_t> shape = shape_of(input);
  if (up) {
    check_same(*up, "up", shape, input);
    return shape;
  }
  if (shape.empty() || shape.back() % 2 != 0) {
    throw std::invalid_argument("input has shape " + shape_text(input) + ", expected (..., 2n) without up");
  }
  shape.back() /= 2;
  return shape;
}

}  // namespace seo_kernels
