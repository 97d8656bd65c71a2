// out = dropout(factor * left up) + bias: one write of out. A thread keeps a few columns of `up` in registers and goes
// over rows.
#include "cuda/low_rank.h"

namespace seo_kernels::cuda {
namespace {

template <class S, int N, int R>
struct LoraUp {
  using Acc = AccOf<S>;
  static constexpr int kThreads = kLanes * kWarps;
  static constexpr int kMostRows = 256;  // of a block
  struct Shared {
    LeftTile<Acc, kMostRows, R> left;
  };
  LoraUpParams p;
  int64_t tile_rows;  // a multiple of kWordRows

  template <class Block>
  SK_DEVICE void operator()(Block& block) const {
    const int64_t column_tiles = ceil_div(p.columns, kLanes * N);
    const int64_t first = block.index() / column_tiles * tile_rows;
    const int64_t last = first + tile_rows < p.rows ? first + tile_rows : p.rows;
    block.for_threads(
        [&](int thread) { block.shared().left.load(p.left, p.rank, first, last, static_cast<Acc>(p.factor), thread); });
    block.sync();
    block.for_threads([&](int thread) {
      const int64_t column = (block.index() % column_tiles * kLanes + thread % kLanes) * N;
      if (column >= p.columns) return;
      Acc up[R][N], bias[N];
      load_columns(column, up, bias);
      const uint64_t seed = seed_of(p.dropout);
      for (int64_t row = first + thread / kLanes * kWordRows; row < last; row += kWarps * kWordRows) {
        const uint32_t kept = p.dropout ? kept_bits<N>(p.dropout, seed, row / kWordRows, column) : 0;
        for (int r = 0; r < kWordRows && row + r < last; ++r) {
          const int tile_row = static_cast<int>(row - first) + r;
          Acc sums[N] = {};
#pragma unroll
          for (int j = 0; j < R; ++j) {
            const Acc left = block.shared().left.values[tile_row * R + j];
#pragma unroll
            for (int n = 0; n < N; ++n) sums[n] += left * up[j][n];
          }
          Chunk<S, N> out;
#pragma unroll
          for (int n = 0; n < N; ++n) {
            if (p.dropout && !is_kept(kept, n, r)) sums[n] = 0;
            out.element[n] = narrow<S>(sums[n] + bias[n]);
          }
          store_chunk<N>(p.out.template at<S>(row + r, column), out);
        }
      }
    });
  }

  SK_DEVICE void load_columns(int64_t column, Acc (&up)[R][N], Acc (&bias)[N]) const {
#pragma unroll
    for (int n = 0; n < N; ++n) bias[n] = p.bias ? static_cast<const Acc*>(p.bias)[column + n] : Acc(0);
#pragma unroll
    for (int j = 0; j < R; ++j) {
      const Chunk<S, N> row = j < p.rank ? load_chunk<N>(p.up.template at<const S>(j, column)) : zeros<S, N>();
#pragma unroll
      for (int n = 0; n < N; ++n) up[j][n] = widen(row.element[n]);
    }
  }
};

}  // namespace

void lora_up(const LoraUpParams& p, Stream stream) {
  with_rank(p, {p.up, p.out}, [&](auto stored, auto n, auto rank) {
    using Kernel = LoraUp<decltype(stored), decltype(n)::value, decltype(rank)::value>;
    const int64_t column_tiles = ceil_div(p.columns, kLanes * decltype(n)::value);
    int64_t tile_rows = Kernel::kMostRows;
    while (tile_rows > kWarps * kWordRows && ceil_div(p.rows, tile_rows) * column_tiles < kBlocksWanted) tile_rows /= 2;
    launch(Kernel{p, tile_rows}, ceil_div(p.rows, tile_rows) * column_tiles, stream, "lora_linear: up");
  });
}

}  // namespace seo_kernels::cuda
