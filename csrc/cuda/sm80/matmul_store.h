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
        chunks(columns % 8 == 0 && to.stride % 8 == 0 && reinterpret_cast<uintptr_t>(to.data) % 16 == 0) {
    if (view.column_stride != 1 && columns > 1) throw std::logic_error("a product is written to rows of neighbours");
  }

  // Eight entries from a column on, as far as there are columns.
  template <class S>
  SK_DEVICE void put(int row, int column, const Pack<S, 8>& pack) const {
    S* at = to.template at<S>(row, column);
    if (chunks) return store_chunk<8>(at, bits_as<Chunk<S, 8>>(pack));
    for (int e = 0; e < 8 && column + e < columns; ++e) at[e] = pack.at[e];
  }
};

// Calls put(row, column, Pack<S, 8>) for the rows and the columns, eight at a time, that a result of so many has, with
// entry(thread, m, n, half, c, sum) narrowed. A warp's entries go through memory of its own: its threads write them as
// they have them, and read neighbours.
template <class S, class Grid, class Block, class Memory, class Entry, class Put>
SK_DEVICE inline void narrow_tile(Block& block, PerThread<typename Grid::Sums>& sums, const Placement<Grid>& place,
                                  Memory& memory, int rows, int columns, Entry entry, Put put) {
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
                          narrow_pair<S>(entry(thread, m, n, h, 0, x[2 * h]), entry(thread, m, n, h, 1, x[2 * h + 1])));
        }
      }
    }
  });
  block.sync_warp();
  block.for_threads([&](int thread) {
#pragma unroll
    for (int m = 0; m < M; ++m) {
      const int first_row = place.first_row + Grid::warp_row(thread, m);
#pragma unroll 1
      for (int piece = thread % kWarp; piece < 16 * N; piece += kWarp) {
        const int r = piece / N, c = piece % N * 8;
        const int row = first_row + r, column = place.first_column + Grid::warp_column(thread) + c;
        if (row < rows && column < columns) put(row, column, memory.template pack<8>(at(thread, 16 * m + r, c)));
      }
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
    narrow_tile<S>(
        block, sums, place, memory, out.rows, out.columns, [](int, int, int, int, int, float sum) { return sum; },
        [&](int row, int column, const Pack<S, 8>& pack) { out.put(row, column, pack); });
  }
};

}  // namespace seo_kernels::cuda
