// projected = factor * dropout(input) down^T: one read of the input. A warp has a few rows, its lanes neighbouring
// columns of them; the sums over the lanes come last.
#include "cuda/low_rank.h"

namespace seo_kernels::cuda {
namespace {

// Of a chunk, read in one access too.
template <class S, int W>
struct alignas(W * sizeof(S)) Part {
  S element[W];
};

template <class S, int N, int R>
struct LoraDown {
  using Acc = AccOf<S>;
  static constexpr int kThreads = kLanes * kWarps;
  static constexpr int kRows = R == 8 && sizeof(Acc) == 4 ? 8 : 4;  // of a warp: their sums stay in registers
  static constexpr int kParts = kLanes / R;                         // of the sums over a warp's lanes
  static_assert(kRows % kWordRows == 0 && R * kParts == kLanes);
  struct Shared {
    SharedArray<Acc, kThreads*(R + 1)> lanes;  // one entry more, so that lanes meet in no bank
    SharedArray<Acc, kThreads> parts;          // (warps, parts, R)
  };
  struct Sums {
    Acc of[kRows][R];
  };
  LoraDownParams p;
  int column_warps;  // that share rows, each with a part of the columns

  template <class Block>
  SK_DEVICE void operator()(Block& block) const {
    PerThread<Sums> sums;
    block.for_threads([&](int thread) { project(first_row(block.index(), thread / kLanes), thread, sums[thread]); });
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
      block.for_threads([&](int thread) {
#pragma unroll
        for (int j = 0; j < R; ++j) block.shared().lanes[thread * (R + 1) + j] = sums[thread].of[row][j];
      });
      block.sync();
      block.for_threads([&](int thread) {
        const int first = thread / R * R;  // the part's first lane, as a thread of the block
        Acc sum = 0;
        for (int n = 0; n < R; ++n) sum += static_cast<Acc>(block.shared().lanes[(first + n) * (R + 1) + thread % R]);
        block.shared().parts[thread] = sum;
      });
      block.sync();
      block.for_threads([&](int thread) { write(block, row, thread); });
    }
  }

  SK_DEVICE int64_t first_row(int64_t block, int warp) const {
    return (block * (kWarps / column_warps) + warp / column_warps) * kRows;
  }

  // The rows' products with this thread's columns.
  SK_DEVICE void project(int64_t first, int thread, Sums& sums) const {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int j = 0; j < R; ++j) sums.of[r][j] = 0;
    }
    const uint64_t seed = seed_of(p.dropout);
    const int64_t lanes = static_cast<int64_t>(kLanes) * column_warps;
    for (int64_t column = thread % lanes * N; column < p.columns; column += lanes * N) {
      Chunk<S, N> x[kRows];
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        x[r] = first + r < p.rows ? load_chunk<N>(p.input.template at<const S>(first + r, column)) : zeros<S, N>();
      }
      if (p.dropout) {
#pragma unroll
        for (int r = 0; r < kRows; r += kWordRows) {
          const uint32_t kept = kept_bits<N>(p.dropout, seed, (first + r) / kWordRows, column);
#pragma unroll
          for (int k = 0; k < kWordRows; ++k) drop_entries(kept, k, x[r + k]);
        }
      }
      add_products(column, x, sums);
    }
  }

  SK_DEVICE void add_products(int64_t column, const Chunk<S, N> (&x)[kRows], Sums& sums) const {
    constexpr int W = N < 4 ? N : 4;  // columns at a time: as many as there are registers for
#pragma unroll
    for (int c = 0; c < N; c += W) {
      Acc values[kRows][W];
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
#pragma unroll
        for (int n = 0; n < W; ++n) values[r][n] = widen(x[r].element[c + n]);
      }
#pragma unroll
      for (int j = 0; j < R; ++j) {
        // past the rank: sums that nobody reads
        const S* down = p.down.template at<const S>(j < p.rank ? j : p.rank - 1, column + c);
        const Part<S, W> part = *reinterpret_cast<const Part<S, W>*>(down);
#pragma unroll
        for (int n = 0; n < W; ++n) {
          const Acc factor = widen(part.element[n]);
#pragma unroll
          for (int r = 0; r < kRows; ++r) sums.of[r][j] += values[r][n] * factor;
        }
      }
    }
  }

  // Sums over the parts, of one row of each warp.
  template <class Block>
  SK_DEVICE void write(Block& block, int row, int thread) const {
    const int j = thread % R, group = thread / R;  // of warps that share rows
    const int64_t at = first_row(block.index(), group * column_warps) + row;
    if (group >= kWarps / column_warps || j >= p.rank || at >= p.rows) return;
    Acc sum = 0;
    const int parts = column_warps * kParts;
    for (int n = 0; n < parts; ++n) sum += static_cast<Acc>(block.shared().parts[(group * parts + n) * R + j]);
    static_cast<Acc*>(p.projected)[at * p.rank + j] = sum * static_cast<Acc>(p.factor);
  }
};

}  // namespace

void lora_down(const LoraDownParams& p, Stream stream) {
  with_rank(p, {p.input, p.down}, [&](auto stored, auto n, auto rank) {
    using Kernel = LoraDown<decltype(stored), decltype(n)::value, decltype(rank)::value>;
    // few rows: all warps of a block take the same
    const int column_warps = ceil_div(p.rows, kWarps * Kernel::kRows) < kBlocksWanted / 4 ? kWarps : 1;
    launch(Kernel{p, column_warps}, ceil_div(p.rows, kWarps / column_warps * Kernel::kRows), stream,
           "lora_linear: down");
  });
}

}  // namespace seo_kernels::cuda
