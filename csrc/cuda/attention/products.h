// Products of tiles: what a block's threads multiply in registers out of shared memory.
//
// Shared memory holds, by turns, rows that are multiplied with each other, or a 64 x 64 matrix (of weights or of score
// gradients) and rows that it is multiplied with. Every product begins with a barrier: what lay there has then been
// read.
#pragma once

#include "cuda/attention/stage.h"
#include "semantics/relative.h"

namespace seo_kernels::cuda {

constexpr int kDims = 16;               // of two sides that are staged at a time
constexpr int kBandLd = 2 * kTile + 4;  // 127 distances occur in a tile
constexpr int kMatrix = kTile * kLd;
template <class Acc>
constexpr int kInner = sizeof(Acc) == 8 ? 16 : 32;  // rows that are staged beside a matrix
template <class Acc>
constexpr int kMemory = kMatrix + kInner<Acc> * kLd;
static_assert(kDims * (kLd + kBandLd) <= kMemory<double>);

// One run of rows of a head; rows from `count` on are zeros.
template <class S>
struct RowRun {
  HeadRows<S> rows;
  int64_t begin;
  int count;

  SK_DEVICE const S* at(int r) const { return r < count ? rows.row(begin + r) : nullptr; }
};

// A table over relative positions as one head has it. Distances outside (-R, R) share its first and its last row.
template <class Acc>
struct HeadTable {
  const Acc* data;
  int64_t reach;  // R
  int width;

  SK_DEVICE HeadTable(const RelativeTable& table, int64_t head, int64_t columns)
      : data(static_cast<const Acc*>(table.data)), reach(table.max_distance), width(static_cast<int>(columns)) {
    if (table.per_head) data += head * table.rows() * columns;
  }

  SK_DEVICE const Acc* row(int64_t n) const { return data + n * width; }
  SK_DEVICE bool inside(int64_t distance) const { return distance > -reach && distance < reach; }
  // Whether a tile whose first row and first key are `distance` apart has distances in (-R, R).
  SK_DEVICE bool tile_inside(int64_t distance) const {
    return distance - kTile + 1 < reach && distance + kTile > 1 - reach;
  }
};

// to += left . right over all columns, (64 rows, 64 rows)
template <class Acc, class S, class Block>
SK_DEVICE void add_dots(Block& block, PerThread<MicroTile<Acc>>& to, const RowRun<S>& left, const RowRun<S>& right) {
  auto& memory = block.shared().memory;
  constexpr int right_at = kDims * kLd;
#pragma unroll 1
  for (int d = 0; d < left.rows.width; d += kDims) {
    block.sync();
    block.for_threads([&](int thread) {
      stage_turned<kTile, kDims>(memory, 0, kLd, thread, left.rows, d, [&](int r) { return left.at(r); });
      stage_turned<kTile, kDims>(memory, right_at, kLd, thread, right.rows, d, [&](int r) { return right.at(r); });
    });
    block.sync();
    block.for_threads([&](int thread) {
      const Place place(thread);
      MicroTile<Acc>& sums = to[thread];
#pragma unroll 4
      for (int k = 0; k < kDims; ++k) {
        const Pack<Acc, 4> b = memory.template pack<4>(right_at + k * kLd + place.column);
#pragma unroll
        for (int r = 0; r < kRows; r += 4) {
          const Pack<Acc, 4> a = memory.template pack<4>(k * kLd + place.row + r);
#pragma unroll
          for (int n = 0; n < 4; ++n) {
#pragma unroll
            for (int c = 0; c < kColumns; ++c) sums.at[r + n][c] += a.at[n] * b.at[c];
          }
        }
      }
    });
  }
}

// to(i, j) += left(i) . table(clip(distance + j - i))
template <class Acc, class S, class Block>
SK_DEVICE void add_band_dots(Block& block, PerThread<MicroTile<Acc>>& to, const RowRun<S>& left,
                             const HeadTable<Acc>& table, int64_t distance) {
  auto& memory = block.shared().memory;
  constexpr int band_at = kDims * kLd;
  const HeadRows<Acc> band(table.data, table.width, 1, table.width);
#pragma unroll 1
  for (int d = 0; d < table.width; d += kDims) {
    block.sync();
    block.for_threads([&](int thread) {
      stage_turned<kTile, kDims>(memory, 0, kLd, thread, left.rows, d, [&](int r) { return left.at(r); });
      stage_turned<2 * kTile, kDims>(memory, band_at, kBandLd, thread, band, d, [&](int e) {
        return table.row(relative_index(distance + e - (kTile - 1), table.reach));
      });
    });
    block.sync();
    block.for_threads([&](int thread) {
      const Place place(thread);
      // of the thread's last row and first column; a multiple of 4
      const int first = place.column - (place.row + kRows - 1) + kTile - 1;
      MicroTile<Acc>& sums = to[thread];
#pragma unroll 2
      for (int k = 0; k < kDims; ++k) {
        Acc near[kRows + kColumns];
#pragma unroll
        for (int n = 0; n < kRows + kColumns; n += 4) {
          const Pack<Acc, 4> four = memory.template pack<4>(band_at + k * kBandLd + first + n);
#pragma unroll
          for (int m = 0; m < 4; ++m) near[n + m] = four.at[m];
        }
#pragma unroll
        for (int r = 0; r < kRows; r += 4) {
          const Pack<Acc, 4> a = memory.template pack<4>(k * kLd + place.row + r);
#pragma unroll
          for (int n = 0; n < 4; ++n) {
#pragma unroll
            for (int c = 0; c < kColumns; ++c) sums.at[r + n][c] += a.at[n] * near[kRows - 1 - (r + n) + c];
          }
        }
      }
    });
  }
}

// The matrix, (64 rows, 64 columns) as the threads have it: by rows, or turned, by columns.
template <bool Turned, class Acc, class Memory>
SK_DEVICE inline void put_matrix(Memory& memory, const Place& place, const MicroTile<Acc>& tile) {
  if constexpr (Turned) {
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
#pragma unroll
      for (int r = 0; r < kRows; r += 4) {
        const Pack<Acc, 4> four{{tile.at[r][c], tile.at[r + 1][c], tile.at[r + 2][c], tile.at[r + 3][c]}};
        memory.template set_pack<4>((place.column + c) * kLd + place.row + r, four);
      }
    }
  } else {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const Pack<Acc, 4> four{{tile.at[r][0], tile.at[r][1], tile.at[r][2], tile.at[r][3]}};
      memory.template set_pack<4>((place.row + r) * kLd + place.column, four);
    }
  }
}

// to(x, w) += sum over y of matrix(y, x) * run(y, w), y being the rows in which the matrix lies.
template <int Width, class Acc, class S, class Block>
SK_DEVICE void add_weighted(Block& block, PerThread<Sums<Acc, Width>>& to, const RowRun<S>& run) {
  auto& memory = block.shared().memory;
#pragma unroll
  for (int n = 0; n < Sums<Acc, Width>::kBlocks; ++n) {
    if (n * kTile >= run.rows.width) break;
#pragma unroll 1
    for (int begin = 0; begin < run.count; begin += kInner<Acc>) {
      block.sync();
      block.for_threads([&](int thread) {
        stage_rows<kInner<Acc>>(memory, kMatrix, thread, run.rows, n * kTile, [&](int r) { return run.at(begin + r); });
      });
      block.sync();
      block.for_threads([&](int thread) {
        const Place place(thread);
        auto& sums = to[thread].at[n];
#pragma unroll 4
        for (int y = 0; y < kInner<Acc>; ++y) {
          const Pack<Acc, 4> b = memory.template pack<4>(kMatrix + y * kLd + place.column);
#pragma unroll
          for (int r = 0; r < kRows; r += 4) {
            const Pack<Acc, 4> a = memory.template pack<4>((begin + y) * kLd + place.row + r);
#pragma unroll
            for (int m = 0; m < 4; ++m) {
#pragma unroll
              for (int c = 0; c < kColumns; ++c) sums[r + m][c] += a.at[m] * b.at[c];
            }
          }
        }
      });
    }
  }
}

}  // namespace seo_kernels::cuda
