// Checks of dropout on every device.
#pragma once

#include "params/strided_pair.h"
#include "torch/tensors.h"

namespace seo_kernels {

inline void check_dropout(const Tensor& input, const Tensor& seed, double p) {
  if (dtype_of(input, "input") == DType::kBool) throw std::invalid_argument("input must be floating");
  if (!(p > 0.0 && p <= 1.0)) {
    throw std::invalid_argument("p is " + std::to_string(p) + ", expected a number in (0, 1]");
  }
  if (seed.scalar_type() != ScalarType::Long || seed.numel() != 1) {
    throw std::invalid_argument("seed has shape " + shape_text(seed) + ", expected one int64");
  }
  if (seed.device() != input.device()) throw std::invalid_argument("seed must be on the input's device");
}

inline StridedPair strided_pair(const Tensor& from, const Tensor& to) {
  return StridedPair(
      from.dim(), [&](int64_t n) { return from.size(n); }, [&](int64_t n) { return from.stride(n); },
      [&](int64_t n) { return to.stride(n); });
}

}  // namespace seo_kernels
