// What relative values add to sums, and gradients of relative tables, given a turned matrix of weights or gradients:
// columns (keys) y, rows (queries) x. Distances inside (-R, R) occur once in a row and are multiplied out; all others
// share the table's first or last row, and need the sum of a row's weights only: its ends.
#pragma once

#include "cuda/attention/products.h"

namespace seo_kernels::cuda {

// Sums of rows' weights below and above a table's reach: entries row, and 64 + row.
template <class Acc>
using Ends = SharedArray<Acc, 2 * kTile>;

// Entries are a thread's own (column 0 of its rows).
template <class Acc>
SK_DEVICE inline void scale_ends(Ends<Acc>& ends, const Place& place, const RowValues<Acc>& factor) {
  if (place.column != 0) return;
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    ends[place.row + r] = ends[place.row + r] * factor.at[r];
    ends[kTile + place.row + r] = ends[kTile + place.row + r] * factor.at[r];
  }
}

template <class Acc, class Block>
SK_DEVICE void clear_ends(Block& block, Ends<Acc>& ends) {
  block.for_threads([&](int thread) {
    const Place place(thread);
    if (place.column != 0) return;
    for (int r = 0; r < kRows; ++r) ends[place.row + r] = ends[kTile + place.row + r] = Acc(0);
  });
}

// Adds what the matrix has outside (-R, R).
template <class Acc, class Block>
SK_DEVICE void add_to_ends(Block& block, Ends<Acc>& ends, int64_t reach, int64_t distance) {
  auto& memory = block.shared().memory;
  const auto add_side = [&](bool above) {
    PerThread<RowValues<Acc>> sums;
    block.for_threads([&](int thread) {
      const Place place(thread);
      RowValues<Acc>& sum = sums[thread];
#pragma unroll
      for (int r = 0; r < kRows; ++r) sum.at[r] = Acc(0);
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
#pragma unroll
        for (int r = 0; r < kRows; r += 4) {
          const Pack<Acc, 4> four = memory.template pack<4>((place.column + c) * kLd + place.row + r);
#pragma unroll
          for (int n = 0; n < 4; ++n) {
            const int64_t d = distance + (place.column + c) - (place.row + r + n);
            const bool counts = above ? d >= reach : d <= -reach && d < reach;
            if (counts) sum.at[r + n] += four.at[n];
          }
        }
      }
    });
    add_across<Acc>(block, sums);
    block.for_threads([&](int thread) {
      const Place place(thread);
      if (place.column != 0) return;
      const int at = (above ? kTile : 0) + place.row;
#pragma unroll
      for (int r = 0; r < kRows; ++r) ends[at + r] = ends[at + r] + sums[thread].at[r];
    });
  };
  block.sync();  // the matrix is complete
  if (distance - kTile + 1 <= -reach) add_side(false);
  if (distance + kTile - 1 >= reach) add_side(true);
}

// Four neighbouring entries of a table's row; zeros outside (-R, R) and past the last column.
template <class Acc>
SK_DEVICE inline void load_table(const HeadTable<Acc>& table, int64_t distance, int column, Acc (&to)[kColumns]) {
#pragma unroll
  for (int c = 0; c < kColumns; ++c) to[c] = Acc(0);
  if (!table.inside(distance)) return;
  const Acc* row = table.row(distance + table.reach) + column;
  if (table.width % kColumns == 0) {
    if (column >= table.width) return;
    constexpr int n = kChunk<Acc>;
#pragma unroll
    for (int c = 0; c < kColumns; c += n) {
      const Chunk<Acc, n> chunk = load_chunk<n>(row + c);
#pragma unroll
      for (int e = 0; e < n; ++e) to[c + e] = chunk.element[e];
    }
    return;
  }
#pragma unroll
  for (int c = 0; c < kColumns; ++c) {
    if (column + c < table.width) to[c] = row[c];
  }
}

// to(x, w) += sum over y of matrix(y, x) * table(distance + y - x, w), inside (-R, R)
template <int Width, class Acc, class Block>
SK_DEVICE void add_band_weighted(Block& block, PerThread<Sums<Acc, Width>>& to, const HeadTable<Acc>& table,
                                 int64_t distance) {
  if (!table.tile_inside(distance)) return;
  constexpr int rows = kRows;
  auto& memory = block.shared().memory;
  block.sync();  // the matrix is complete
#pragma unroll
  for (int n = 0; n < Sums<Acc, Width>::kBlocks; ++n) {
    if (n * kTile >= table.width) break;
    block.for_threads([&](int thread) {
      const Place place(thread);
      const int column = n * kTile + place.column;
      auto& sums = to[thread].at[n];
      // Row r reads at y what row 0 read at y - r: entry (y - r) % rows of this window.
      Acc window[rows][kColumns];
#pragma unroll
      for (int r = 1; r < rows; ++r) load_table(table, distance - place.row - r, column, window[rows - r]);
#pragma unroll 1
      for (int begin = 0; begin < kTile; begin += rows) {
#pragma unroll
        for (int step = 0; step < rows; ++step) {
          load_table(table, distance + begin + step - place.row, column, window[step]);
#pragma unroll
          for (int r = 0; r < rows; r += 4) {
            const Pack<Acc, 4> a = memory.template pack<4>((begin + step) * kLd + place.row + r);
#pragma unroll
            for (int m = 0; m < 4; ++m) {
#pragma unroll
              for (int c = 0; c < kColumns; ++c) sums[r + m][c] += a.at[m] * window[(step - r - m + rows) % rows][c];
            }
          }
        }
      }
    });
  }
}

// to(x, w) += ends(x) of the table's first and last row
template <int Width, class Acc, class Block>
SK_DEVICE void add_ends_weighted(Block& block, PerThread<Sums<Acc, Width>>& to, const HeadTable<Acc>& table,
                                 Ends<Acc>& ends) {
  block.sync();
  block.for_threads([&](int thread) {
    const Place place(thread);
#pragma unroll
    for (int side = 0; side < 2; ++side) {
      const Acc* row = table.row(side * 2 * table.reach);
#pragma unroll
      for (int n = 0; n < Sums<Acc, Width>::kBlocks; ++n) {
#pragma unroll
        for (int c = 0; c < kColumns; ++c) {
          const int column = n * kTile + place.column + c;
          if (column >= table.width) continue;
          const Acc entry = row[column];
#pragma unroll
          for (int r = 0; r < kRows; ++r) to[thread].at[n][r][c] += ends[side * kTile + place.row + r] * entry;
        }
      }
    }
  });
}

// to(distance + y - x, w) += factor * sum of matrix(y, x) * run(x, w), inside (-R, R). `to` is this block's own.
template <class Acc, class S, class Block>
SK_DEVICE void add_table_gradient(Block& block, Acc* to, const HeadTable<Acc>& table, const RowRun<S>& run,
                                  int64_t distance, Acc factor) {
  auto& memory = block.shared().memory;
  PerThread<MicroTile<Acc>> sums;
  // 64 of the 127 distances at a time, from `from` on, and 64 columns
#pragma unroll 1
  for (int64_t from = distance - kTile + 1; from <= distance + 1; from += kTile) {
    if (from >= table.reach || from + kTile <= 1 - table.reach) continue;
    const int shift = static_cast<int>(from - distance);
#pragma unroll 1
    for (int first = 0; first < table.width; first += kTile) {
      block.for_threads([&](int thread) { sums[thread] = MicroTile<Acc>{}; });
#pragma unroll 1
      for (int begin = 0; begin < run.count; begin += kInner<Acc>) {
        block.sync();
        block.for_threads([&](int thread) {
          stage_rows<kInner<Acc>>(memory, kMatrix, thread, run.rows, first, [&](int r) { return run.at(begin + r); });
        });
        block.sync();
        block.for_threads([&](int thread) {
          const Place place(thread);
#pragma unroll 2
          for (int x = begin; x < begin + kInner<Acc>; ++x) {
            const Pack<Acc, 4> b = memory.template pack<4>(kMatrix + (x - begin) * kLd + place.column);
#pragma unroll
            for (int r = 0; r < kRows; ++r) {
              const int y = x + shift + place.row + r;
              const Acc a = y >= 0 && y < kTile ? static_cast<Acc>(memory[y * kLd + x]) : Acc(0);
#pragma unroll
              for (int c = 0; c < kColumns; ++c) sums[thread].at[r][c] += a * b.at[c];
            }
          }
        });
      }
      block.for_threads([&](int thread) {
        const Place place(thread);
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          const int64_t d = from + place.row + r;
          if (d >= distance + kTile || !table.inside(d)) continue;
          Acc* row = to + (d + table.reach) * table.width;
#pragma unroll
          for (int c = 0; c < kColumns; ++c) {
            const int column = first + place.column + c;
            if (column < table.width) row[column] += factor * sums[thread].at[r][c];
          }
        }
      });
    }
  }
}

// What rows' ends add to the gradient's first and last row.
template <class Acc, class S, class Block>
SK_DEVICE void add_ends_gradient(Block& block, Acc* to, const HeadTable<Acc>& table, const RowRun<S>& run,
                                 Ends<Acc>& ends, Acc factor) {
  block.sync();
  block.for_threads([&](int thread) {
    for (int column = thread; column < table.width; column += kTileThreads) {
      Acc below = 0, above = 0;
      for (int x = 0; x < run.count; ++x) {
        const Acc value = static_cast<Acc>(widen(run.at(x)[column * run.rows.column_stride]));
        below += ends[x] * value;
        above += ends[kTile + x] * value;
      }
      to[column] += factor * below;
      to[2 * table.reach * table.width + column] += factor * above;
    }
  });
}

}  // namespace seo_kernels::cuda
