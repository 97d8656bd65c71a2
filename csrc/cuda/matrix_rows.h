// Matrices as the device kernels see them: rows of neighbouring columns, read 16 bytes at a time where that fits.
#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>

#include "cuda/element.h"
#include "params/matrix_view.h"
#include "semantics/host_device.h"

namespace seo_kernels::cuda {

struct Rows {
  void* data = nullptr;  // null where the matrix is absent
  int64_t stride = 0;    // in elements

  template <class S>
  SK_DEVICE S* at(int64_t row, int64_t column) const {
    return static_cast<S*>(data) + row * stride + column;
  }
};

// Of an elementwise kernel. All matrices of a call have the same rows, columns and dtype.
struct ElementwiseParams {
  DType dtype;
  int64_t rows, columns;
  int64_t last_columns;  // of the last row, which may be shorter
};

SK_HOST_DEVICE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Whether 16 bytes at a time fit matrices of so many rows and columns.
template <class S>
inline bool fits_chunks(int64_t rows, int64_t columns, std::initializer_list<Rows> matrices) {
  constexpr int64_t n = kChunk<S>;
  if (columns % n != 0) return false;
  return std::all_of(matrices.begin(), matrices.end(), [&](const Rows& matrix) {
    return reinterpret_cast<uintptr_t>(matrix.data) % 16 == 0 && (matrix.stride % n == 0 || rows == 1);
  });
}

}  // namespace seo_kernels::cuda
