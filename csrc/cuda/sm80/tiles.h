// Tiles in shared memory, swizzled, and their products: a warp has some rows of the result, 16 at a time, in registers.
#pragma once

#include "cuda/attention/products.h"
#include "cuda/sm80/warp.h"

namespace seo_kernels::cuda {

constexpr int kMmaThreads = 128;  // four warps, each with a quarter of a tile's rows
constexpr int kStep = 16;         // of the inner dimension
constexpr int kMmaColumns = kTile / 8;

// A thread's part of 16 M rows and 8 N columns.
template <int M, int N>
struct Tile {
  Product at[M][N];
};

SK_DEVICE inline int steps_of(int width) {
  compute_anew_from(width);
  return (width + kStep - 1) / kStep;
}

// Rows 0 .. Rows - 1 of a tile that is `Width` wide, from row_at(r), null where there is none. Columns past the last
// are zeros up to the next multiple of 16, and not touched from there on: nobody reads them. Rows that lie in pieces of
// 16 bytes are copied: a wait, and then a barrier, come before they are read.
template <int Rows, int Width, class S, class Memory, class RowAt>
SK_DEVICE inline void stage_tile(Memory& memory, int thread, const HeadRows<S>& from, RowAt row_at) {
  constexpr int piece = 8, per_row = Width / piece;
  const int columns = steps_of(from.width) * kStep;
  compute_anew_from(thread);
  if (from.chunks) {
#pragma unroll 4
    for (int at = thread; at < Rows * per_row; at += kMmaThreads) {
      const int r = at / per_row, c = at % per_row * piece;
      if (c >= columns) continue;
      const S* row = row_at(r);
      const bool there = row && c < from.width;
      begin_copy(memory, swizzled<Width>(r, c), there ? row + c : from.data, there);
    }
    return;
  }
#pragma unroll 1
  for (int at = thread; at < Rows * per_row; at += kMmaThreads) {
    const int r = at / per_row, c = at % per_row * piece;
    if (c >= columns) continue;
    const S* row = row_at(r);
    Pack<S, piece> pack{};
#pragma unroll
    for (int e = 0; e < piece; ++e) {
      if (row && c + e < from.width) pack.at[e] = row[(c + e) * from.column_stride];
    }
    memory.template set_pack<piece>(swizzled<Width>(r, c), pack);
  }
}

// The same of neighbouring rows: a thread's pieces lie in one column, and equally far apart.
template <int Rows, int Width, class S, class Block, class Memory>
SK_DEVICE inline void stage_run(Block& block, Memory& memory, const RowRun<S>& run) {
  block.for_threads([&](int thread) {
    if (!run.rows.chunks) return stage_tile<Rows, Width>(memory, thread, run.rows, [&](int r) { return run.at(r); });
    constexpr int per_row = Width / 8, apart = kMmaThreads / per_row;
    int width = run.rows.width;
    compute_anew_from(thread);
    compute_anew_from(width);
    const int first = thread / per_row, c = thread % per_row * 8;
    if (c >= steps_of(width) * kStep) return;
    const S* from = run.rows.row(run.begin + first) + c;
    const int64_t step = apart * run.rows.row_stride;
    const int rows = c < width ? run.count - first : 0;
#pragma unroll
    for (int n = 0; n < Rows / apart; ++n) {
      const int at = swizzled<Width>(first + n * apart % 8, c) + n * apart / 8 * 8 * Width;
      begin_copy(memory, at, from, n * apart < rows);
      from += step;
    }
  });
}

// First of the rows of a thread's warp, of 16 M each.
template <int M>
SK_DEVICE inline int warp_row(int thread) {
  return thread / kWarp * (16 * M);
}

// The place 16 k columns on from that of one of the first 16 columns.
template <int Width>
SK_DEVICE constexpr int steps_on(int place, int k) {
  static_assert(Width % 64 == 0);
  return (place ^ kStep * (k % 4)) + 4 * kStep * (k / 4);
}

// to(16 M rows of a warp, 8 N rows of the right) += left . right over `steps` times 16 columns. right_row(thread): the
// first of the warp's rows of the right.
template <class S, int Width, int M, int N, class Block, class Left, class Right, class RightRow>
SK_DEVICE inline void add_row_products(Block& block, PerThread<Tile<M, N>>& to, Left& left, Right& right, int steps,
                                       RightRow right_row) {
  PerThread<Fragment> a[M], b;
  PerThread<int> left_at, right_at;
  block.for_threads([&](int thread) {
    compute_anew_from(thread);
    const int lane = thread % kWarp;
    left_at[thread] = swizzled<Width>(warp_row<M>(thread) + lane % 16, lane / 16 * 8);
    right_at[thread] = swizzled<Width>(right_row(thread) + lane % 8 + lane / 16 * 8, lane / 8 % 2 * 8);
  });
  const auto step = [&](int k) {
    block.for_threads([&](int thread) {
      compute_anew_from(left_at[thread]);
      compute_anew_from(right_at[thread]);
    });
#pragma unroll
    for (int m = 0; m < M; ++m) {
      read_matrices<false>(
          block, left, [&](int thread) -> Fragment& { return a[m][thread]; },
          [&](int thread) { return steps_on<Width>(left_at[thread], k) + 16 * m * Width; });
    }
#pragma unroll
    for (int n = 0; n < N; n += 2) {
      read_matrices<false>(
          block, right, [&](int thread) -> Fragment& { return b[thread]; },
          [&](int thread) { return steps_on<Width>(right_at[thread], k) + 8 * n * Width; });
#pragma unroll
      for (int m = 0; m < M; ++m) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          multiply<S>(
              block, [&](int thread) -> Product& { return to[thread].at[m][n + half]; },
              [&](int thread) -> const Fragment& { return a[m][thread]; },
              [&](int thread) { return b[thread].at + 2 * half; });
        }
      }
    }
  };
  if (steps == Width / kStep) {  // without a branch, reads run ahead of products
#pragma unroll
    for (int k = 0; k < Width / kStep; ++k) step(k);
  } else {
#pragma unroll 1
    for (int k = 0; k < steps; ++k) step(k);
  }
}

// to(16 M rows, 8 N columns) += weights(k) . rows, over K steps of 16 rows of the right from right_row(thread) on;
// weights(k, m, thread): a step's fragment; of the columns, the first 16 `steps`.
template <class S, int Width, int K, int M, int N, class Block, class Weights, class Right, class RightRow>
SK_DEVICE inline void add_weighted_rows(Block& block, PerThread<Tile<M, N>>& to, Weights weights, Right& right,
                                        int steps, RightRow right_row) {
  PerThread<Fragment> a[M], b;
  PerThread<int> right_at;
  block.for_threads([&](int thread) {
    compute_anew_from(thread);
    right_at[thread] = swizzled<Width>(right_row(thread) + thread % 16, thread % kWarp / 16 * 8);
  });
  const auto step = [&](int k, auto all) {
    block.for_threads([&](int thread) { compute_anew_from(right_at[thread]); });
    weights(k, a);
#pragma unroll
    for (int n = 0; n < N; n += 2) {
      if (!decltype(all)::value && n / 2 >= steps) break;
      read_matrices<true>(
          block, right, [&](int thread) -> Fragment& { return b[thread]; },
          [&](int thread) { return steps_on<Width>(right_at[thread], n / 2) + kStep * k * Width; });
#pragma unroll
      for (int m = 0; m < M; ++m) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          multiply<S>(
              block, [&](int thread) -> Product& { return to[thread].at[m][n + half]; },
              [&](int thread) -> const Fragment& { return a[m][thread]; },
              [&](int thread) { return b[thread].at + 2 * half; });
        }
      }
    }
  };
  if (2 * steps == N) {
#pragma unroll
    for (int k = 0; k < K; ++k) step(k, std::true_type{});
  } else {
#pragma unroll
    for (int k = 0; k < K; ++k) step(k, std::false_type{});
  }
}

// Columns 16 k and those after of results, as the left operand of the next product.
template <class S, int M, int N>
SK_DEVICE inline Fragment as_left(const Tile<M, N>& tile, int m, int k) {
  const float (&low)[4] = tile.at[m][2 * k].at, (&high)[4] = tile.at[m][2 * k + 1].at;
  return {{narrow_pair<S>(low[0], low[1]), narrow_pair<S>(low[2], low[3]), narrow_pair<S>(high[0], high[1]),
           narrow_pair<S>(high[2], high[3])}};
}

// A tile of 64 columns as left operands.
template <int M>
struct Lefts {
  Fragment at[M][kTile / kStep];
};
template <class S, int M>
SK_DEVICE inline Lefts<M> as_lefts(const Tile<M, kMmaColumns>& tile) {
  Lefts<M> lefts;
#pragma unroll
  for (int m = 0; m < M; ++m) {
#pragma unroll
    for (int k = 0; k < kTile / kStep; ++k) lefts.at[m][k] = as_left<S>(tile, m, k);
  }
  return lefts;
}

template <class S, int Width, int M, int N, class Block, class Right>
SK_DEVICE inline void add_lefts_weighted(Block& block, PerThread<Tile<M, N>>& to, PerThread<Lefts<M>>& lefts,
                                         Right& right, int steps) {
  const auto weights = [&](int k, PerThread<Fragment>(&a)[M]) {
    block.for_threads([&](int thread) {
#pragma unroll
      for (int m = 0; m < M; ++m) a[m][thread] = lefts[thread].at[m][k];
    });
  };
  add_weighted_rows<S, Width, kTile / kStep>(block, to, weights, right, steps, [](int) { return 0; });
}

// to += tile . rows, the tile's 64 columns being the rows of the right.
template <class S, int Width, int M, int N, class Block, class Right>
SK_DEVICE inline void add_tile_weighted(Block& block, PerThread<Tile<M, N>>& to, PerThread<Tile<M, kMmaColumns>>& tile,
                                        Right& right, int steps) {
  PerThread<Lefts<M>> lefts;
  block.for_threads([&](int thread) { lefts[thread] = as_lefts<S>(tile[thread]); });
  add_lefts_weighted<S, Width>(block, to, lefts, right, steps);
}

// 16 M rows of each warp, by way of its own rows of `memory`, to rows of an output that end at `row_end`.
template <class S, int Width, int M, int N, class Block, class Memory, class Factor>
SK_DEVICE inline void store_tile(Block& block, Memory& memory, PerThread<Tile<M, N>>& tile, Factor factor, S* to,
                                 const TensorView& view, int64_t first_row, int64_t row_end, int width) {
  block.sync_warp();  // what lay there is read
  block.for_threads([&](int thread) {
    const Lane lane(thread);
#pragma unroll
    for (int m = 0; m < M; ++m) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int row = warp_row<M>(thread) + 16 * m + lane.row + 8 * h;
        const float f = factor(thread, m, h);
#pragma unroll
        for (int n = 0; n < N; ++n) {
          const float (&x)[4] = tile[thread].at[m][n].at;
          memory.set_pair(swizzled<Width>(row, 8 * n + lane.column), narrow_pair<S>(x[2 * h] * f, x[2 * h + 1] * f));
        }
      }
    }
  });
  block.sync_warp();
  block.for_threads([&](int thread) {
    const bool pieces =
        width % 8 == 0 && view.stride[3] == 1 && view.stride[2] % 8 == 0 && reinterpret_cast<uintptr_t>(to) % 16 == 0;
    constexpr int per_row = Width / 8;
#pragma unroll 1
    for (int at = thread % kWarp; at < 16 * M * per_row; at += kWarp) {
      const int row = warp_row<M>(thread) + at / per_row, c = at % per_row * 8;
      if (first_row + row >= row_end || c >= width) continue;
      const Pack<S, 8> pack = memory.template pack<8>(swizzled<Width>(row, c));
      S* out = to + (first_row + row) * view.stride[2];
      if (pieces) {
        store_chunk<8>(out + c, bits_as<Chunk<S, 8>>(pack));
        continue;
      }
      for (int e = 0; e < 8 && c + e < width; ++e) out[(c + e) * view.stride[3]] = pack.at[e];
    }
  });
}

}  // namespace seo_kernels::cuda
