// Tensors as matrices.
#pragma once

#include "params/matrix_view.h"
#include "torch/tensors.h"

namespace seo_kernels {

// (..., n) as (rows, n). The tensor is replaced by a contiguous copy where its leading dimensions are not those of one
// matrix, or neighbours lie side by side neither in rows nor in columns.
inline MatrixView matrix_of(Tensor& tensor, const char* name) {
  const int64_t last = tensor.dim() - 1;
  MatrixView view;
  view.dtype = dtype_of(tensor, name);
  view.columns = tensor.size(last);
  view.rows = 1;
  for (int64_t n = 0; n < last; ++n) view.rows *= tensor.size(n);
  bool one_stride = true;
  int64_t next = -1;  // the stride that the next dimension to the left must have; -1: any
  for (int64_t n = last - 1; n >= 0; --n) {
    if (tensor.size(n) == 1) continue;
    if (next < 0) {
      view.row_stride = tensor.stride(n);
    } else if (tensor.stride(n) != next) {
      one_stride = false;
    }
    next = tensor.stride(n) * tensor.size(n);
  }
  view.column_stride = tensor.stride(last);
  const bool scattered = view.rows > 1 && view.columns > 1 && view.row_stride != 1 && view.column_stride != 1;
  if ((!one_stride || scattered) && view.rows > 0 && view.columns > 0) {
    tensor = torch::stable::contiguous(tensor);
    view.row_stride = view.columns;
    view.column_stride = 1;
  }
  view.data = tensor.data_ptr();
  return view;
}

// The matrix with neighbouring columns side by side; the tensor is replaced by a contiguous copy where they are not.
inline MatrixView rows_of(Tensor& tensor, const char* name) {
  if (tensor.stride(tensor.dim() - 1) != 1) tensor = torch::stable::contiguous(tensor);
  MatrixView view = matrix_of(tensor, name);
  view.column_stride = 1;  // of a single column torch may say anything
  return view;
}

}  // namespace seo_kernels
