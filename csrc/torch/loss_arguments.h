// What the arguments of the losses have in common on every device: checks and views.
#pragma once

#include <cmath>

#include "params/loss_params.h"
#include "torch/matrices.h"

namespace seo_kernels {

inline void check_floating(const Tensor& tensor, const char* name) {
  if (dtype_of(tensor, name) == DType::kBool) {
    throw std::invalid_argument(std::string(name) + " has a dtype that no kernel knows");
  }
}

inline void check_matrix(const Tensor& tensor, const char* name, const char* expected) {
  if (tensor.dim() != 2) {
    throw std::invalid_argument(std::string(name) + " has shape " + shape_text(tensor) + ", expected " + expected);
  }
  check_floating(tensor, name);
}

// A vector in the accumulation type, kept alive by `tensor`; null where there is none.
inline const void* acc_vector(OptionalTensor& tensor, const char* name, int64_t size, ScalarType acc) {
  if (!tensor) return nullptr;
  check_floating(*tensor, name);
  check_shape(*tensor, name, {size});
  tensor = as_type(*tensor, acc);
  return tensor->data_ptr();
}

inline const void* acc_vector(Tensor& tensor, const char* name, int64_t size, ScalarType acc) {
  check_floating(tensor, name);
  check_shape(tensor, name, {size});
  tensor = as_type(tensor, acc);
  return tensor.data_ptr();
}

// Class indices (rows), kept alive by `target`.
inline const int64_t* class_indices(Tensor& target, int64_t rows) {
  if (target.scalar_type() != ScalarType::Long) throw std::invalid_argument("target must be int64");
  check_shape(target, "target", {rows});
  target = as_type(target, ScalarType::Long);
  return static_cast<const int64_t*>(target.data_ptr());
}

// Each in [0, classes) or ignore_index. The indices lie in the host's memory.
inline void check_indices(const int64_t* indices, int64_t rows, int64_t classes, int64_t ignore_index) {
  for (int64_t row = 0; row < rows; ++row) {
    if ((indices[row] < 0 || indices[row] >= classes) && indices[row] != ignore_index) {
      throw std::invalid_argument("target is " + std::to_string(indices[row]) + " in row " + std::to_string(row) +
                                  ", expected a class from 0 to " + std::to_string(classes - 1) + ", or ignore_index " +
                                  std::to_string(ignore_index));
    }
  }
}

inline void check_smoothing(double label_smoothing) {
  if (!(label_smoothing >= 0.0 && label_smoothing <= 1.0)) {
    throw std::invalid_argument("label_smoothing is " + std::to_string(label_smoothing) +
                                ", expected a number in [0, 1]");
  }
}

inline void check_gamma(double gamma) {
  if (!(gamma >= 0.0) || !std::isfinite(gamma)) {
    throw std::invalid_argument("gamma is " + std::to_string(gamma) + ", expected a number of at least 0");
  }
}

inline void check_delta(double delta) {
  if (!(delta > 0.0) || !std::isfinite(delta)) {
    throw std::invalid_argument("delta is " + std::to_string(delta) + ", expected a number above 0");
  }
}

inline void check_hidden(const Tensor& hidden, const Tensor& weight) {
  check_matrix(hidden, "hidden", "(tokens, dim)");
  check_matrix(weight, "weight", "(classes, dim)");
  check_shape(weight, "weight", {weight.size(0), hidden.size(1)});
  if (weight.scalar_type() != hidden.scalar_type()) throw std::invalid_argument("weight must have hidden's dtype");
}

}  // namespace seo_kernels
