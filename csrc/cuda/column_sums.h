// Sums over the rows of a matrix, the same in every run: each tile of rows writes its part, the last block of a column
// of tiles adds the parts in order.
#pragma once

#include "cuda/matrix_rows.h"

namespace seo_kernels::cuda {

struct ColumnSums {
  double* sums = nullptr;        // (columns,); null where they are not wanted
  double* parts = nullptr;       // (ceil(rows / summed_tile_rows), columns), any contents
  unsigned* counters = nullptr;  // (summed_column_tiles,), zeros

  SK_DEVICE explicit operator bool() const { return sums != nullptr; }
};

// Rows of a block's tile: few enough that the sums over the tiles are cheap.
int64_t summed_tile_rows(int64_t rows);
// Counters that it takes.
int64_t summed_column_tiles(int64_t columns);

struct ColumnSumsParams : ElementwiseParams {
  Rows input;
  ColumnSums to;
};

void column_sums(const ColumnSumsParams& p, Stream stream);

}  // namespace seo_kernels::cuda
