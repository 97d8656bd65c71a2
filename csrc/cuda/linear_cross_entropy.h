// What linear_cross_entropy does beside the matrix products and the kernels of cross entropy.
#pragma once

#include "cuda/executor.h"
#include "params/matrix_view.h"

namespace seo_kernels::cuda {

// Rows of a matrix, with zeros for those whose target is ignored, whatever they hold.
struct CountedRowsParams {
  MatrixView from;
  const int64_t* target;  // (rows)
  int64_t ignore_index;
  void* to;  // dtype of the matrix, contiguous
};
void counted_rows(const CountedRowsParams& p, Stream stream);

// sum += part; or, where there is `to`, their sum, rounded, to that.
struct AddRowsParams {
  int64_t rows, columns;
  DType dtype;       // of `to`
  const void* part;  // acc, contiguous
  void* sum;         // acc, contiguous
  void* to;          // contiguous, or null
};
void add_rows(const AddRowsParams& p, Stream stream);

}  // namespace seo_kernels::cuda
