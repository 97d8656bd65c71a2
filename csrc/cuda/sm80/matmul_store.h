// Epilogues that write: sums, narrowed, by way of shared memory, to rows of a matrix.
#pragma once

#include "cuda/matrix_rows.h"
#include "cuda/sm80/matmul.h"

namespace seo_kernels::cuda {

// The rows of a matrix of 16 bits that a product writes to: neighbouring columns side by side.
struct MatmulOut {
  Rows to;
  int rows, columns;
  bool chunks;  // rows lie in whole pieces of 16 bytes

  MatmulOut() = default;
  explicit MatmulOut(const MatrixView& view)
      : to{view.data, view.row_stride},
        rows(static_cast<int>(view.rows)),
        columns(static_cast<int>(view.columns)),
        chunks(columns % 8 == 0 && (to.stride % 8 == 0 || rows <= 1) &&
               reinterpret_cast<uintptr_t>(to.data) % 16 == 0) {
    if (view.column_stride != 1 && columns > 1) throw std::logic_error("a product is written to rows of neighbours");
  }

  SK_DEVICE explicit operator bool() const { return to.data != nullptr; }
  // Eight entries from a column on, as far as there are columns.
  template <class S>
  SK_DEVICE void put(int row, int column, const Pack<S, 8>& pack) const {
    S* at = to.template at<S>(row, column);
    if (chunks) return store_chunk<8>(at, bits_as<Chunk<S, 8>>(pack));
    for (int e = 0; e < 8 && column + e < columns; ++e) at[e] = pack.at[e];
  }
};

// sums += a number for each column
template <class Grid, class Block>
SK_DEVICE inline void add_to_columns(Block& block, PerThread<typename Grid::Sums>& sums, const Placement<Grid>& place,
                                     const float* numbers, int columns) {
  block.for_threads([&](int thread) {
#pragma unroll
    for (int n = 0; n < Grid::kN; ++n) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const int column = place.column(thread, n, c);
        const float number = column < columns ? numbers[column] : 0.0f;
#pragma unroll
        for (int m = 0; m < Grid::kM; ++m) {
#pragma unroll
          for (int h = 0; h < 2; ++h) sums[thread].at[m][n].at[2 * h + c] += number;
        }
      }
    }
  });
}

// Calls put(row, column, Pack<S, 8>) with the sums, narrowed, of the rows and the columns, eight at a time, that a
// result of so many has. A warp's sums go through memory of its own: its threads write what they have, and read
// neighbours.
template <class S, class Grid, class Block, class Memory, class Put>
SK_DEVICE inline void narrow_tile(Block& block, PerThread<typename Grid::Sums>& sums, const Placement<Grid>& place,
                                  Memory& memory, int rows, int columns, Put put) {
  constexpr int M = Grid::kM, N = Grid::kN, width = 8 * N;
  const auto at = [](int thread, int row, int column) {
    return thread / kWarp * (16 * M * width) + swizzled<width>(row, column);
  };
  block.for_threads([&](int thread) {
    const Lane lane(thread);
#pragma unroll
    for (int m = 0; m < M; ++m) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
#pragma unroll
        for (int n = 0; n < N; ++n) {
          const float (&x)[4] = sums[thread].at[m][n].at;
          memory.set_pair(at(thread, 16 * m + lane.row + 8 * h, 8 * n + lane.column),
                          narrow_pair<S>(x[2 * h], x[2 * h + 1]));
        }
      }
    }
  });
  block.sync_warp();
  block.for_threads([&](int thread) {
#pragma unroll 1
    for (int piece = thread % kWarp; piece < 16 * M * N; piece += kWarp) {
      const int r = piece / N, c = piece % N * 8;
      const int row = place.first_row + Grid::warp_row(thread, r / 16) + r % 16;
      const int column = place.first_column + Grid::warp_column(thread) + c;
      if (row < rows && column < columns) put(row, column, memory.template pack<8>(at(thread, r, c)));
    }
  });
}

// out = the product
template <class S>
struct StoreProduct {
  struct Shared {};
  MatmulOut out;

  template <class Block, class Grid, class Memory>
  SK_DEVICE void operator()(Block& block, PerThread<typename Grid::Sums>& sums, const Placement<Grid>& place,
                            Memory& memory, Shared&) const {
    narrow_tile<S>(block, sums, place, memory, out.rows, out.columns,
                   [&](int row, int column, const Pack<S, 8>& pack) { out.put(row, column, pack); });
  }
};

}  // namespace seo_kernels::cuda
