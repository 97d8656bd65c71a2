// What blocks do that sum the columns of what they compute. Blocks are as in TilePlace.
#pragma once

#include "cuda/activation_tile.h"
#include "cuda/column_sums.h"

namespace seo_kernels::cuda {

template <class S, int N>
struct SummedTile {
  using Acc = AccOf<S>;
  static constexpr int kThreads = kLanes * kRowGroups;
  struct Shared {
    SharedArray<Acc, kThreads * N> sums;  // (row groups, lanes, N)
    SharedArray<int, 1> last;
  };
  ColumnSums to;
  int64_t rows, columns, tile_rows;

  // A thread's sums over its rows.
  template <class Block>
  SK_DEVICE void put(Block& block, int thread, const Acc (&sums)[N]) const {
    for (int n = 0; n < N; ++n) block.shared().sums[thread * N + n] = sums[n];
  }

  // After all threads have put theirs.
  template <class Block>
  SK_DEVICE void finish(Block& block) const {
    block.sync();
    block.for_threads([&](int thread) { sum_groups(block, thread); });
    const int64_t column_tiles = ceil_div(columns, kTileColumns<N>), tiles = ceil_div(rows, tile_rows);
    const bool last = block.arrives_last(to.counters + block.index() % column_tiles, static_cast<unsigned>(tiles),
                                         block.shared().last);
    if (last) block.for_threads([&](int thread) { sum_tiles(block.index() % column_tiles, tiles, thread); });
  }

 private:
  // Over the row groups: the tile's part.
  template <class Block>
  SK_DEVICE void sum_groups(Block& block, int thread) const {
    const int64_t column_tiles = ceil_div(columns, kTileColumns<N>);
    const int64_t row_tile = block.index() / column_tiles, first = block.index() % column_tiles * kTileColumns<N>;
    for (int n = thread; n < kTileColumns<N>; n += kThreads) {
      if (first + n >= columns) continue;
      double sum = 0;
      for (int group = 0; group < kRowGroups; ++group) {
        sum += static_cast<Acc>(block.shared().sums[group * kLanes * N + n]);
      }
      to.parts[row_tile * columns + first + n] = sum;
    }
  }

  // Over the tiles, in order.
  SK_DEVICE void sum_tiles(int64_t column_tile, int64_t tiles, int thread) const {
    const int64_t first = column_tile * kTileColumns<N>;
    for (int n = thread; n < kTileColumns<N>; n += kThreads) {
      if (first + n >= columns) continue;
      double sum = 0;
      for (int64_t tile = 0; tile < tiles; ++tile) sum += to.parts[tile * columns + first + n];
      to.sums[first + n] = sum;
    }
  }
};

}  // namespace seo_kernels::cuda
