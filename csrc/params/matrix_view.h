// Matrices as kernels see them, and ranges of their rows or columns.
#pragma once

#include <cstdint>
#include <utility>

#include "params/tensor_view.h"

namespace seo_kernels {

inline int64_t element_size(DType dtype) {
  return dtype == DType::kFloat64 ? 8 : dtype == DType::kFloat32 ? 4 : dtype == DType::kBool ? 1 : 2;
}

// [begin, end)
struct Range {
  int64_t begin = 0, end = 0;

  int64_t size() const { return end - begin; }
};

// A matrix of any strides (in elements); a stride of 0 broadcasts.
struct MatrixView {
  void* data = nullptr;
  DType dtype = DType::kFloat32;
  int64_t rows = 0, columns = 0;
  int64_t row_stride = 0, column_stride = 0;

  explicit operator bool() const { return data != nullptr; }
  MatrixView transposed() const { return {data, dtype, columns, rows, column_stride, row_stride}; }
  MatrixView block(Range of_rows, Range of_columns) const {
    const int64_t offset = of_rows.begin * row_stride + of_columns.begin * column_stride;
    return {static_cast<char*>(data) + offset * element_size(dtype),
            dtype,
            of_rows.size(),
            of_columns.size(),
            row_stride,
            column_stride};
  }
};

// Part `index` of [0, count) in `parts` contiguous parts of about equal size, each a multiple of `step`.
inline Range share(int64_t count, int64_t step, int64_t parts, int64_t index) {
  const int64_t steps = (count + step - 1) / step;
  const auto at = [&](int64_t part) {
    const int64_t position = steps * part / parts * step;
    return position < count ? position : count;
  };
  return {at(index), at(index + 1)};
}

}  // namespace seo_kernels
