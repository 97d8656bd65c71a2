// The matrix product on tensor cores as a tile program: a block has a tile of the result, in registers, and goes over
// the inner dimension of its terms, steps of both operands being copied while those before are multiplied.
//
// What becomes of the sums an epilogue says, which knows nothing of how they were made:
//
//   struct Epilogue {
//     struct Shared { ... };                                   // of its own
//     template <class Block, class Grid, class Memory>
//     SK_DEVICE void operator()(Block& block, PerThread<typename Grid::Sums>& sums, const Placement<Grid>& place,
//                               Memory& memory, Shared& shared) const;
//   };
//
// and, where the sums of a first term are changed before the second is added, a change:
//
//   struct Change {
//     template <class Block, class Grid>
//     SK_DEVICE void operator()(Block& block, PerThread<typename Grid::Sums>& sums, const Placement<Grid>& place)
//     const;
//   };
//
// `memory`: the operands' shared memory, entries of 16 bits, at least as many as the tile has, and free: a barrier has
// been passed. A thread's sums are a Tile<M, N> of 16 x 8 products; Grid and Placement say where they lie.
#pragma once

#include "cuda/sm80/copy_if.h"
#include "cuda/sm80/matmul_params.h"
#include "cuda/sm80/tiles.h"
#include "cuda/sm80/widths.h"

namespace seo_kernels::cuda {

// How the warps of a block share its tile: RowWarps x ColumnWarps of them, each with 16 M rows and 8 N columns.
template <int M, int N, int RowWarps, int ColumnWarps>
struct WarpGrid {
  static constexpr int kM = M, kN = N, kThreads = RowWarps * ColumnWarps * kWarp;
  static constexpr int kRows = RowWarps * 16 * M, kColumns = ColumnWarps * 8 * N;
  static constexpr int kRowWarps = RowWarps;
  static constexpr int kColumnWarps = ColumnWarps;  // that share a row
  using Sums = Tile<M, N>;

  // In the tile: the first of a warp's m-th 16 rows, the first of its columns, and which of those that share its rows
  // it is.
  SK_DEVICE static int warp_row(int thread, int m) { return thread / kWarp % RowWarps * (16 * M) + 16 * m; }
  SK_DEVICE static int warp_column(int thread) { return column_warp(thread) * (8 * N); }
  SK_DEVICE static int column_warp(int thread) { return thread / kWarp / RowWarps; }
};

// A warp's 64 x 64 results are what shared memory can feed tensor cores with.
using MatmulGrid = WarpGrid<4, 8, 2, 4>;

// Where a block's tile lies in the result, and in it what a thread has: at[m][n].at[2 half + c] of its sums.
template <class Grid>
struct Placement {
  int first_row, first_column;

  SK_DEVICE int tile_row(int thread, int m, int half) const {
    return Grid::warp_row(thread, m) + Lane(thread).row + 8 * half;
  }
  SK_DEVICE int tile_column(int thread, int n, int c) const {
    return Grid::warp_column(thread) + 8 * n + Lane(thread).column + c;
  }
  SK_DEVICE int row(int thread, int m, int half) const { return first_row + tile_row(thread, m, half); }
  SK_DEVICE int column(int thread, int n, int c) const { return first_column + tile_column(thread, n, c); }
};

// Blocks that run at once have tiles of about as many rows as columns: groups of 16 tiles of rows, column after column.
struct Raster {
  static constexpr int kGroup = 16;
  int row_tiles, column_tiles;

  struct At {
    int row_tile, column_tile;
  };
  SK_DEVICE At at(int64_t index) const {
    const int64_t of_group = int64_t{kGroup} * column_tiles;
    const int group = static_cast<int>(index / of_group), in_group = static_cast<int>(index % of_group);
    const int rest = row_tiles - group * kGroup, high = rest < kGroup ? rest : kGroup;
    return {group * kGroup + in_group % high, in_group / high};
  }
  int64_t tiles() const { return int64_t{row_tiles} * column_tiles; }
};

template <class Grid>
inline Raster raster_of(int rows, int columns) {
  return {(rows + Grid::kRows - 1) / Grid::kRows, (columns + Grid::kColumns - 1) / Grid::kColumns};
}

// Swizzled also where a line has 32 entries: two lines share a row of banks.
template <int Width>
SK_DEVICE constexpr int staged(int line, int column) {
  if constexpr (Width == 32) {
    return line * Width + ((column / 8) ^ (line / 2 % 4)) * 8 + column % 8;
  } else {
    return swizzled<Width>(line, column);
  }
}

// Lines of an operand that lie in pieces of 16 bytes, zeros past its ends, are copied to entry `to` of memory and those
// after, where `wanted`: a wait, and then a barrier, come before they are read. There is no branch, so that copies are
// issued between products.
template <class S, int Lines, int Width, int Threads, class Memory>
SK_DEVICE inline void copy_lines(Memory& memory, int to, int thread, const MatmulOperand& from, int first_line,
                                 int first_column, bool wanted) {
  constexpr int piece = 8, per_line = Width / piece, apart = Threads / per_line;
  static_assert(apart % 8 == 0 && Lines % apart == 0);
  const int r = thread / per_line, c = thread % per_line * piece, column = first_column + c;
  const int64_t offset = (first_line + r) * from.line_stride + column;
#pragma unroll
  for (int n = 0; n < Lines / apart; ++n) {
    const bool there = first_line + r + n * apart < from.lines && column < from.columns;
    begin_copy_if(wanted && from.chunks, memory, to + staged<Width>(r, c) + n * apart * Width,
                  static_cast<const S*>(from.data), offset + n * apart * from.line_stride, there);
  }
}

// The same of lines that lie in any way, entry by entry.
template <class S, int Lines, int Width, int Threads, class Memory>
SK_DEVICE inline void gather_lines(Memory& memory, int to, int thread, const MatmulOperand& from, int first_line,
                                   int first_column) {
  constexpr int piece = 8, per_line = Width / piece;
  const S* data = static_cast<const S*>(from.data);
#pragma unroll 1
  for (int at = thread; at < Lines * per_line; at += Threads) {
    const int r = at / per_line, c = at % per_line * piece;
    const int line = first_line + r, column = first_column + c;
    Pack<S, piece> pack{};
#pragma unroll
    for (int e = 0; e < piece; ++e) {
      if (line < from.lines && column + e < from.columns) {
        pack.at[e] = data[line * from.line_stride + (column + e) * from.column_stride];
      }
    }
    memory.template set_pack<piece>(to + staged<Width>(r, c), pack);
  }
}

struct NoChange {};

// A block's tile of a product.
template <class S, class Grid, bool LeftTurned, bool RightTurned>
struct TileProduct {
  static constexpr int kInner = MatmulParams::kInnerStep, kSteps = kInner / kStep;
  static constexpr int kStages = 4;  // of copies: three are under way while one is multiplied
  static constexpr int kLeft = Grid::kRows * kInner, kRight = Grid::kColumns * kInner, kStage = kLeft + kRight;
  static constexpr int kEntries = kStages * kStage;
  static constexpr int M = Grid::kM, N = Grid::kN;
  static_assert(kSteps == 2 && kEntries >= Grid::kRows * Grid::kColumns);

  // What a thread has of both operands of 16 columns of the inner dimension.
  struct Operands {
    PerThread<Fragment> left[M], right[N / 2];
  };

  // Sets the sums. Memory may be read by nobody when it begins, and is free when it ends.
  template <class Block, class Memory, class Change = NoChange>
  SK_DEVICE static void run(Block& block, Memory& memory, const MatmulParams& p, const Placement<Grid>& place,
                            PerThread<typename Grid::Sums>& sums, const Change& change = {}) {
    block.for_threads([&](int thread) { sums[thread] = typename Grid::Sums{}; });
    const int steps = p.steps();
    Operands now, next;
#pragma unroll 1
    for (int s = 0; s < kStages - 1; ++s) {
      stage(block, memory, p, place, s, s < steps);
      commit_copies(block);
    }
    wait_for_copies<kStages - 2>(block);
    block.sync();  // the first stage is there
    if (steps > 0) read<0>(block, memory, 0, now);
#pragma unroll 1
    for (int s = 0; s < steps; ++s) {
      stage(block, memory, p, place, s + kStages - 1, s + kStages - 1 < steps);
      commit_copies(block);
      read<1>(block, memory, s, next);
      multiply_step(block, now, sums);
      wait_for_copies<kStages - 2>(block);
      block.sync();  // the next stage is there, this one is read
      if (s + 1 < steps) read<0>(block, memory, s + 1, now);
      multiply_step(block, next, sums);
      if constexpr (!std::is_same_v<Change, NoChange>) {
        if (s + 1 == p.terms[0].steps) change(block, sums, place);
      }
    }
  }

 private:
  template <class Block, class Memory>
  SK_DEVICE static void stage(Block& block, Memory& memory, const MatmulParams& p, const Placement<Grid>& place, int s,
                              bool wanted) {
    const int first = p.terms[0].steps;
    const MatmulTerm& term = p.terms[s < first ? 0 : 1];
    const int inner = (s < first ? s : s - first) * kInner, left = s % kStages * kStage, right = left + kLeft;
    constexpr int left_lines = LeftTurned ? kInner : Grid::kRows, left_width = LeftTurned ? Grid::kRows : kInner;
    constexpr int right_lines = RightTurned ? kInner : Grid::kColumns;
    constexpr int right_width = RightTurned ? Grid::kColumns : kInner;
    const int left_line = LeftTurned ? inner : place.first_row, left_column = LeftTurned ? place.first_row : inner;
    const int right_line = RightTurned ? inner : place.first_column;
    const int right_column = RightTurned ? place.first_column : inner;
    block.for_threads([&](int thread) {
      if (wanted && !term.left.chunks) {
        gather_lines<S, left_lines, left_width, Grid::kThreads>(memory, left, thread, term.left, left_line,
                                                                left_column);
      }
      if (wanted && !term.right.chunks) {
        gather_lines<S, right_lines, right_width, Grid::kThreads>(memory, right, thread, term.right, right_line,
                                                                  right_column);
      }
      copy_lines<S, left_lines, left_width, Grid::kThreads>(memory, left, thread, term.left, left_line, left_column,
                                                            wanted);
      copy_lines<S, right_lines, right_width, Grid::kThreads>(memory, right, thread, term.right, right_line,
                                                              right_column, wanted);
    });
  }

  // 16 columns of the inner dimension, from k on, of what a stage holds.
  template <int Step, class Block, class Memory>
  SK_DEVICE static void read(Block& block, Memory& memory, int s, Operands& to) {
    constexpr int k = Step * kStep;
    const int left = s % kStages * kStage, right = left + kLeft;
#pragma unroll
    for (int m = 0; m < M; ++m) {
      read_matrices<LeftTurned>(
          block, memory, [&](int thread) -> Fragment& { return to.left[m][thread]; },
          [&](int thread) {
            const int lane = thread % kWarp, row = Grid::warp_row(thread, m);
            if constexpr (LeftTurned) {
              return left + staged<Grid::kRows>(k + lane % 8 + lane / 16 * 8, row + lane / 8 % 2 * 8);
            } else {
              return left + staged<kInner>(row + lane % 16, k + lane / 16 * 8);
            }
          });
    }
#pragma unroll
    for (int n = 0; n < N; n += 2) {
      read_matrices<RightTurned>(
          block, memory, [&](int thread) -> Fragment& { return to.right[n / 2][thread]; },
          [&](int thread) {
            const int lane = thread % kWarp, column = Grid::warp_column(thread) + 8 * n;
            if constexpr (RightTurned) {
              return right + staged<Grid::kColumns>(k + lane % 16, column + lane / 16 * 8);
            } else {
              return right + staged<kInner>(column + lane % 8 + lane / 16 * 8, k + lane / 8 % 2 * 8);
            }
          });
    }
  }

  template <class Block>
  SK_DEVICE static void multiply_step(Block& block, Operands& of, PerThread<typename Grid::Sums>& sums) {
#pragma unroll
    for (int m = 0; m < M; ++m) {
#pragma unroll
      for (int n = 0; n < N; ++n) {
        multiply<S>(
            block, [&](int thread) -> Product& { return sums[thread].at[m][n]; },
            [&](int thread) -> const Fragment& { return of.left[m][thread]; },
            [&](int thread) { return of.right[n / 2][thread].at + 2 * (n % 2); });
      }
    }
  }
};

// One tile of the result for each block.
template <class S, bool LeftTurned, bool RightTurned, class Epilogue, class Change = NoChange>
struct Matmul {
  using Grid = MatmulGrid;
  using OfTile = TileProduct<S, Grid, LeftTurned, RightTurned>;
  static constexpr int kThreads = Grid::kThreads;
  struct Shared {
    SharedArray<S, OfTile::kEntries> operands;
    typename Epilogue::Shared epilogue;
  };
  MatmulParams p;
  Raster raster;
  Epilogue epilogue;
  Change change = {};

  template <class Block>
  SK_DEVICE void operator()(Block& block) const {
    Shared& shared = block.shared();
    const Raster::At tile = raster.at(block.index());
    const Placement<Grid> place{tile.row_tile * Grid::kRows, tile.column_tile * Grid::kColumns};
    PerThread<typename Grid::Sums> sums;
    OfTile::run(block, shared.operands, p, place, sums, change);
    epilogue(block, sums, place, shared.operands, shared.epilogue);
  }
};

// Which layouts of the left operand a product is compiled for. Where that is rows, MatmulParams are told so: they read
// another layout entry by entry.
enum class LeftLayouts { kRows, kBoth };

// epilogue_of(S{}): the epilogue for operands of type S.
template <LeftLayouts kLeft, class EpilogueOf, class Change = NoChange>
inline void launch_matmul(const MatmulParams& p, EpilogueOf epilogue_of, Stream stream, const char* op,
                          const Change& change = {}) {
  const Raster raster = raster_of<MatmulGrid>(p.rows, p.columns);
  with_16_bits(p.dtype, [&](auto stored) {
    const auto epilogue = epilogue_of(stored);
    const auto with_layouts = [&](auto left, auto right) {
      using Epilogue = std::remove_const_t<decltype(epilogue)>;
      using Kernel = Matmul<decltype(stored), decltype(left)::value, decltype(right)::value, Epilogue, Change>;
      launch(Kernel{p, raster, epilogue, change}, raster.tiles(), stream, op);
    };
    const auto with_left = [&](auto left) {
      p.right_turned ? with_layouts(left, std::true_type{}) : with_layouts(left, std::false_type{});
    };
    if constexpr (kLeft == LeftLayouts::kBoth) {
      if (p.left_turned) return with_left(std::true_type{});
    }
    if (p.left_turned) throw std::logic_error("a turned left operand, of which a product knows nothing");
    with_left(std::false_type{});
  });
}

}  // namespace seo_kernels::cuda
