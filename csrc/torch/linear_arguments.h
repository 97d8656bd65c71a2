// What linear and lora_linear check on every device.
#pragma once

#include <cmath>
#include <string>

#include "torch/tensors.h"

namespace seo_kernels {

// Order of `wanted` and of the gradients returned; linear has the first three.
enum LinearGradient { kInput, kWeight, kBias, kLinearGradients, kLoraA = kLinearGradients, kLoraB, kLoraGradients };

// input (..., in), weight (out, in), bias (out,), all of input's floating dtype; the bias's may differ. Throws
// std::invalid_argument.
inline void check_linear(const Tensor& input, const Tensor& weight, const OptionalTensor& bias) {
  if (input.dim() < 1 || dtype_of(input, "input") == DType::kBool) {
    throw std::invalid_argument("input has shape " + shape_text(input) + ", expected a floating (..., in_features)");
  }
  const int64_t in = input.size(input.dim() - 1);
  if (weight.dim() != 2 || weight.size(1) != in) {
    throw std::invalid_argument("weight has shape " + shape_text(weight) +
                                ", expected (out_features, in_features=" + std::to_string(in) + ")");
  }
  if (weight.scalar_type() != input.scalar_type()) throw std::invalid_argument("weight must have input's dtype");
  if (bias) {
    check_shape(*bias, "bias", {weight.size(0)});
    if (dtype_of(*bias, "bias") == DType::kBool) throw std::invalid_argument("bias must be floating");
  }
}

// The shape of input with out_features last.
inline std::vector<int64_t> output_shape(const Tensor& input, const Tensor& weight) {
  std::vector<int64_t> shape = shape_of(input);
  shape.back() = weight.size(0);
  return shape;
}

// grad_out (..., out) for this input and weight
inline void check_grad_out(const Tensor& grad_out, const Tensor& input, const Tensor& weight) {
  check_shape(grad_out, "grad_out", output_shape(input, weight));
  if (grad_out.scalar_type() != input.scalar_type()) throw std::invalid_argument("grad_out must have input's dtype");
}

// preactivation (..., out), as forward keeps it
inline void check_preactivation(const Tensor& preactivation, const Tensor& input, const Tensor& weight) {
  check_shape(preactivation, "preactivation", output_shape(input, weight));
  if (preactivation.scalar_type() != input.scalar_type()) {
    throw std::invalid_argument("preactivation must have input's dtype");
  }
}

// Empties the preactivation that forward was not asked to keep: it comes back as it came, of shape (0,).
inline void leave_out_absent(OptionalTensor& preactivation) {
  if (preactivation && preactivation->dim() == 1 && preactivation->numel() == 0) preactivation = {};
}

// lora_a (rank, in), lora_b (out, rank), of input's dtype; scaling is a number.
inline void check_factors(const Tensor& input, const Tensor& weight, const Tensor& lora_a, const Tensor& lora_b,
                          double scaling) {
  const std::string in = std::to_string(weight.size(1)), out = std::to_string(weight.size(0));
  if (lora_a.dim() != 2 || lora_a.size(1) != weight.size(1)) {
    throw std::invalid_argument("lora_a has shape " + shape_text(lora_a) + ", expected (rank, in_features=" + in + ")");
  }
  if (lora_b.dim() != 2 || lora_b.size(0) != weight.size(0) || lora_b.size(1) != lora_a.size(0)) {
    throw std::invalid_argument("lora_b has shape " + shape_text(lora_b) + ", expected (out_features=" + out +
                                ", rank=" + std::to_string(lora_a.size(0)) + ")");
  }
  for (const auto& [tensor, name] : {std::pair{&lora_a, "lora_a"}, {&lora_b, "lora_b"}}) {
    if (tensor->scalar_type() != input.scalar_type()) {
      throw std::invalid_argument(std::string(name) + " must have input's dtype");
    }
  }
  if (!std::isfinite(scaling)) {
    throw std::invalid_argument("scaling is " + std::to_string(scaling) + ", expected a number");
  }
}

// Whether there is dropout; its seed is then one int64.
inline bool check_dropout(const OptionalTensor& seed, double dropout_p) {
  if (!(dropout_p >= 0.0 && dropout_p < 1.0)) {
    throw std::invalid_argument("dropout_p is " + std::to_string(dropout_p) + ", expected a number in [0, 1)");
  }
  if (dropout_p == 0.0) return false;
  if (!seed) throw std::invalid_argument("seed is missing: dropout_p above 0 needs one");
  if (seed->scalar_type() != ScalarType::Long || seed->numel() != 1) {
    throw std::invalid_argument("seed has shape " + shape_text(*seed) + ", expected one int64");
  }
  return true;
}

}  // namespace seo_kernels
