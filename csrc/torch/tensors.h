// Small helpers between stable-ABI tensors and the kernels' plain parameters.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "params/tensor_view.h"

namespace seo_kernels {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

inline std::string shape_text(const Tensor& tensor) {
  std::string text = "(";
  for (int64_t n = 0; n < tensor.dim(); ++n) text += (n ? ", " : "") + std::to_string(tensor.size(n));
  return text + ")";
}

inline std::vector<int64_t> shape_of(const Tensor& tensor) {
  std::vector<int64_t> shape;
  for (int64_t n = 0; n < tensor.dim(); ++n) shape.push_back(tensor.size(n));
  return shape;
}

// float64 accumulates in float64, all else in float32.
inline ScalarType acc_type_of(const Tensor& tensor) {
  return tensor.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline DType dtype_of(const Tensor& tensor, const char* name) {
  switch (tensor.scalar_type()) {
    case ScalarType::Double:
      return DType::kFloat64;
    case ScalarType::Float:
      return DType::kFloat32;
    case ScalarType::BFloat16:
      return DType::kBFloat16;
    case ScalarType::Half:
      return DType::kFloat16;
    case ScalarType::Bool:
      return DType::kBool;
    default:
      throw std::invalid_argument(std::string(name) + " has a dtype that no kernel knows");
  }
}

// A 4-D tensor as the kernels see it; dimensions of size 1 broadcast.
inline TensorView view_of(const Tensor& tensor, const char* name) {
  TensorView view;
  view.data = tensor.data_ptr();
  view.dtype = dtype_of(tensor, name);
  for (int64_t n = 0; n < 4; ++n) view.stride[n] = tensor.size(n) == 1 ? 0 : tensor.stride(n);
  return view;
}

inline void check_shape(const Tensor& tensor, const char* name, const std::vector<int64_t>& expected) {
  bool same = tensor.dim() == static_cast<int64_t>(expected.size());
  for (size_t n = 0; same && n < expected.size(); ++n) same = tensor.size(static_cast<int64_t>(n)) == expected[n];
  if (same) return;
  std::string text = "(";
  for (size_t n = 0; n < expected.size(); ++n) text += (n ? ", " : "") + std::to_string(expected[n]);
  throw std::invalid_argument(std::string(name) + " has shape " + shape_text(tensor) + ", expected " + text + ")");
}

// wanted: which gradients, as many entries as expected
inline void check_wanted(const std::vector<bool>& wanted, size_t expected) {
  if (wanted.size() == expected) return;
  throw std::invalid_argument("wanted has " + std::to_string(wanted.size()) + " entries, expected " +
                              std::to_string(expected));
}

// The tensor in the accumulation type, contiguous.
inline Tensor as_type(const Tensor& tensor, ScalarType type) {
  const Tensor same = tensor.scalar_type() == type ? tensor : torch::stable::to(tensor, type);
  return same.is_contiguous() ? same : torch::stable::contiguous(same);
}

}  // namespace seo_kernels
