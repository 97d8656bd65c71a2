// What the arguments of the losses have in common: checks, views and the division of work among threads.
#pragma once

#include <algorithm>

#include "cpu/loss_params.h"
#include "torch/matrices.h"

namespace seo_kernels {

inline ScalarType acc_type_of(const Tensor& tensor) {
  return tensor.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

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

// Class indices (rows), each in [0, classes) or ignore_index, kept alive by `target`.
inline const int64_t* class_indices(Tensor& target, int64_t rows, int64_t classes, int64_t ignore_index) {
  if (target.scalar_type() != ScalarType::Long) throw std::invalid_argument("target must be int64");
  check_shape(target, "target", {rows});
  target = as_type(target, ScalarType::Long);
  const int64_t* indices = static_cast<const int64_t*>(target.data_ptr());
  for (int64_t row = 0; row < rows; ++row) {
    if ((indices[row] < 0 || indices[row] >= classes) && indices[row] != ignore_index) {
      throw std::invalid_argument("target is " + std::to_string(indices[row]) + " in row " + std::to_string(row) +
                                  ", expected a class from 0 to " + std::to_string(classes - 1) + ", or ignore_index " +
                                  std::to_string(ignore_index));
    }
  }
  return indices;
}

inline void check_smoothing(double label_smoothing) {
  if (!(label_smoothing >= 0.0 && label_smoothing <= 1.0)) {
    throw std::invalid_argument("label_smoothing is " + std::to_string(label_smoothing) +
                                ", expected a number in [0, 1]");
  }
}

// A gradient of the tensor's shape and dtype; of shape (0,) where it is not wanted.
inline Tensor new_gradient(const Tensor& tensor, bool wanted) {
  return make_tensor(tensor, wanted ? shape_of(tensor) : std::vector<int64_t>{0}, tensor.scalar_type());
}

// f(begin, end) over [0, count), in parallel where an item has enough entries to be worth it.
template <class F>
void over_items(int64_t count, int64_t entries_each, F f) {
  constexpr int64_t kSerialEntries = 1 << 15;
  if (count == 0) return;
  const int64_t grain = std::max<int64_t>(1, kSerialEntries / std::max<int64_t>(1, entries_each));
  if (count <= grain) return f(0, count);
  torch::stable::parallel_for(0, count, grain, f);
}

}  // namespace seo_kernels
