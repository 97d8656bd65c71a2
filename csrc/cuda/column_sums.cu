// Sums over the rows of a matrix: one read of it.
#include "cuda/column_sums.h"

#include "cuda/summed_tile.h"

namespace seo_kernels::cuda {
namespace {

template <class S, int N>
struct SumColumns {
  using Acc = AccOf<S>;
  using Shared = typename SummedTile<S, N>::Shared;
  static constexpr int kThreads = SummedTile<S, N>::kThreads;
  ColumnSumsParams p;
  int64_t tile_rows;

  template <class Block>
  SK_DEVICE void operator()(Block& block) const {
    const SummedTile<S, N> tile{p.to, p.rows, p.columns, tile_rows};
    block.for_threads([&](int thread) {
      const TilePlace<S, N> place(p, tile_rows, block.index(), thread);
      Acc sums[N] = {};
      place.for_rows({p.input}, [&](int64_t, const Chunk<S, N>* in) {
#pragma unroll
        for (int n = 0; n < N; ++n) sums[n] += static_cast<Acc>(widen(in[0].element[n]));
      });
      tile.put(block, thread, sums);
    });
    tile.finish(block);
  }
};

}  // namespace

int64_t summed_tile_rows(int64_t rows) {
  constexpr int64_t kMostTiles = 256;
  return std::max(kTileRows, ceil_div(ceil_div(rows, kMostTiles), kRowGroups) * kRowGroups);
}

int64_t summed_column_tiles(int64_t columns) { return ceil_div(columns, kTileColumns<1>); }

void column_sums(const ColumnSumsParams& p, Stream stream) {
  const int64_t tile_rows = summed_tile_rows(p.rows);
  with_chunks(p, {p.input}, [&](auto stored, auto n) {
    launch(SumColumns<decltype(stored), decltype(n)::value>{p, tile_rows}, tiles_of<decltype(n)::value>(p, tile_rows),
           stream, "column_sums");
  });
}

}  // namespace seo_kernels::cuda
