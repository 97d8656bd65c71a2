// How elementwise kernels go over matrices: a block has a tile of rows and columns, a thread a few neighbouring columns
// of every eighth row.
#pragma once

#include "cuda/matrix_rows.h"

namespace seo_kernels::cuda {

constexpr int kLanes = 32, kRowGroups = 8;
constexpr int kRowsAtOnce = 4;  // whose loads are under way together
constexpr int64_t kTileRows = 64;

template <int N>
constexpr int64_t kTileColumns = static_cast<int64_t>(kLanes) * N;

// N columns of some rows, as a thread has them. Calls f(row, chunk of each input) for rows that the tile has.
template <class S, int N>
struct TilePlace {
  int64_t column, row, row_end, last_row, last_columns;

  SK_DEVICE TilePlace(const ElementwiseParams& p, int64_t tile_rows, int64_t block, int thread) {
    const int64_t column_tiles = ceil_div(p.columns, kTileColumns<N>);
    const int64_t first_row = block / column_tiles * tile_rows;
    column = block % column_tiles * kTileColumns<N> + thread % kLanes * N;
    row = first_row + thread / kLanes;
    row_end = first_row + tile_rows < p.rows ? first_row + tile_rows : p.rows;
    last_row = p.rows - 1;
    last_columns = p.last_columns;
    if (column >= p.columns) row = row_end;
  }

  SK_DEVICE bool has(int64_t r) const { return r < row_end && (r < last_row || column < last_columns); }

  // Calls f(row, in) with in[k] the chunk of the k-th input.
  template <int Inputs, class F>
  SK_DEVICE void for_rows(const Rows (&inputs)[Inputs], F f) const {
    for (int64_t begin = row; begin < row_end; begin += kRowGroups * kRowsAtOnce) {
      Chunk<S, N> in[kRowsAtOnce][Inputs];
#pragma unroll
      for (int n = 0; n < kRowsAtOnce; ++n) {
        const int64_t r = begin + n * kRowGroups;
        if (!has(r)) continue;
#pragma unroll
        for (int k = 0; k < Inputs; ++k) in[n][k] = load_chunk<N>(inputs[k].template at<const S>(r, column));
      }
#pragma unroll
      for (int n = 0; n < kRowsAtOnce; ++n) {
        const int64_t r = begin + n * kRowGroups;
        if (has(r)) f(r, in[n]);
      }
    }
  }
};

// Calls f(S, number of columns that a thread takes at a time).
template <class F>
inline void with_chunks(const ElementwiseParams& p, std::initializer_list<Rows> matrices, F f) {
  with_dtype(p.dtype, [&](auto stored) {
    using S = decltype(stored);
    if (p.last_columns % kChunk<S> == 0 && fits_chunks<S>(p.rows, p.columns, matrices)) {
      return f(stored, std::integral_constant<int, kChunk<S>>{});
    }
    f(stored, std::integral_constant<int, 1>{});
  });
}

template <int N>
int64_t tiles_of(const ElementwiseParams& p, int64_t tile_rows) {
  return ceil_div(p.rows, tile_rows) * ceil_div(p.columns, kTileColumns<N>);
}

}  // namespace seo_kernels::cuda
