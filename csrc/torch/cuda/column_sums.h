// Memory for sums over the rows of a matrix.
#pragma once

#include "cuda/column_sums.h"
#include "torch/cuda/device.h"

namespace seo_kernels {

// Lives until the kernel that sums is launched.
struct SummedColumns {
  Tensor sums, parts, counters;

  SummedColumns(const Tensor& like, int64_t rows, int64_t columns) {
    const int64_t tile_rows = cuda::summed_tile_rows(rows);
    parts = new_tensor(like, {cuda::ceil_div(rows, tile_rows), columns}, ScalarType::Double);
    counters = new_tensor(like, {cuda::summed_column_tiles(columns)}, ScalarType::Int, true);
    sums = new_tensor(like, {columns}, ScalarType::Double);
  }

  cuda::ColumnSums pointers() const {
    return {static_cast<double*>(sums.data_ptr()), static_cast<double*>(parts.data_ptr()),
            static_cast<unsigned*>(counters.data_ptr())};
  }
};

// The sums over the rows of a matrix (rows, columns), in a dtype.
inline Tensor sum_columns(Tensor matrix, ScalarType type, cuda::Stream stream) {
  const int64_t columns = matrix.size(1);
  if (matrix.numel() == 0) return new_tensor(matrix, {columns}, type, true);
  cuda::ColumnSumsParams p;
  const MatrixView view = rows_of(matrix, "matrix");
  p.dtype = view.dtype;
  p.rows = view.rows;
  p.columns = p.last_columns = columns;
  p.input = device_rows(view);
  const SummedColumns memory(matrix, p.rows, columns);
  p.to = memory.pointers();
  cuda::column_sums(p, stream);
  return as_type(memory.sums, type);
}

}  // namespace seo_kernels
