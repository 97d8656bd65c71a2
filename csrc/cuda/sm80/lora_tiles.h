// How the narrow products of lora_linear come by their operands: tiles of a large matrix on their way into shared
// memory, and dropout of what a warp has read from there.
#pragma once

#include "cuda/low_rank.h"
#include "cuda/sm80/lora.h"
#include "cuda/sm80/tiles.h"

namespace seo_kernels::cuda {

constexpr int64_t kNarrowBlocks = 256;  // to keep the largest devices busy: two of a multiprocessor

// Neighbouring numbers; the first has an even index.
SK_DEVICE inline void store_two(float* to, float first, float second) {
  struct alignas(8) Two {
    float at[2];
  };
  *reinterpret_cast<Two*>(to) = {{first, second}};
}

// Rows of a matrix up to `row_end`, and its columns up to `column_end`.
template <class S>
struct MatrixPart {
  const S* data;
  int64_t stride, row_end, column_end;
  bool chunks;  // 16 bytes can be read at once, from every eighth column on
};

// Entries from (row, column) on, zeros past the ends, to `at` and those after: a copy where 16 bytes lie side by side.
template <int RowCount, int Width, class S, class Memory>
SK_DEVICE inline void stage_part(Memory& memory, int at, int thread, const MatrixPart<S>& from, int64_t row,
                                 int64_t column) {
  constexpr int piece = 8, per_row = Width / piece, rows_at_once = kMmaThreads / per_row;
  static_assert(kMmaThreads % per_row == 0 && RowCount % rows_at_once == 0);
  const int r = thread / per_row, c = thread % per_row * piece;
  const S* source = from.data + (row + r) * from.stride + column + c;
  const int rows = static_cast<int>(from.row_end - row < RowCount ? from.row_end - row : RowCount);
  if (from.chunks) {
    const bool inside = column + c < from.column_end;
#pragma unroll
    for (int n = 0; n < RowCount; n += rows_at_once) {
      const bool there = inside && r + n < rows;
      begin_copy(memory, at + swizzled<Width>(r + n, c), there ? source : from.data, there);
      source += rows_at_once * from.stride;
    }
    return;
  }
#pragma unroll 1
  for (int n = 0; n < RowCount; n += rows_at_once) {
    Pack<S, piece> pack{};
#pragma unroll
    for (int e = 0; e < piece; ++e) {
      if (r + n < rows && column + c + e < from.column_end) pack.at[e] = source[e];
    }
    memory.template set_pack<piece>(at + swizzled<Width>(r + n, c), pack);
    source += rows_at_once * from.stride;
  }
}

// The padded rank's rows of a factor.
template <int R, int Width, class S, class Memory>
SK_DEVICE inline void stage_factor(Memory& memory, int at, int thread, const sm80::FactorOperand& factor,
                                   int64_t column, int64_t column_end) {
  const MatrixPart<S> part{static_cast<const S*>(factor.data), factor.stride, R, column_end, true};
  stage_part<R, Width>(memory, at, thread, part, 0, column);
}

// Sets to zero the halves of a register whose bits are not set.
SK_DEVICE inline uint32_t kept_halves(uint32_t word, uint32_t low, uint32_t high) {
  return word & ((low & 1 ? 0xFFFFu : 0u) | (high & 1 ? 0xFFFF0000u : 0u));
}

// Dropout of a warp's Left: matrix rows from row(thread) on, a multiple of 16, and columns from column(thread) on.
// Neighbours draw for each other: two row groups of four columns are those of four threads.
template <class Block, class Row, class Column>
SK_DEVICE inline void drop_rows(Block& block, PerThread<Fragment>& a, const Dropout& dropout, uint64_t seed, Row row,
                                Column column) {
  PerThread<uint32_t> kept;
  block.for_threads([&](int thread) {
    const Lane lane(thread);
    const int turn = lane.row % 4, group = lane.row / 4 * 4;
    const int64_t drawn = column(thread) + lane.column + turn % 2 + turn / 2 * 8;
    uint32_t bits = 0;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      bits |= kept_bits<1>(dropout, seed, (row(thread) + group) / kWordRows + 2 * h, drawn) << (8 * turn + 4 * h);
    }
    kept[thread] = bits;
  });
  block.template combine<4, 4>(kept, [](uint32_t x, uint32_t y) { return x | y; });
  block.for_threads([&](int thread) {
    const uint32_t bits = kept[thread] >> (Lane(thread).row % 4);
#pragma unroll
    for (int m = 0; m < 4; ++m) {  // row half m % 2, columns half m / 2
      const uint32_t mine = bits >> (16 * (m / 2) + 4 * (m % 2));
      a[thread].at[m] = kept_halves(a[thread].at[m], mine, mine >> 8);
    }
  });
}

// The same where the matrix was read turned: the rows of Left are the matrix's columns.
template <class Block, class Row, class Column>
SK_DEVICE inline void drop_turned(Block& block, PerThread<Fragment>& a, const Dropout& dropout, uint64_t seed, Row row,
                                  Column column) {
  PerThread<uint32_t> kept;
  block.for_threads([&](int thread) {
    const Lane lane(thread);
    const int turn = lane.column / 2 % 2, group = lane.column / 4 * 4;
    const int64_t drawn = column(thread) + lane.row + turn * 8;
    uint32_t bits = 0;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      bits |= kept_bits<1>(dropout, seed, (row(thread) + group) / kWordRows + 2 * h, drawn) << (8 * turn + 4 * h);
    }
    kept[thread] = bits;
  });
  block.template combine<2>(kept, [](uint32_t x, uint32_t y) { return x | y; });
  block.for_threads([&](int thread) {
    const uint32_t bits = kept[thread] >> (Lane(thread).column % 4);
#pragma unroll
    for (int m = 0; m < 4; ++m) {  // column half m % 2, rows half m / 2
      const uint32_t mine = bits >> (8 * (m % 2) + 4 * (m / 2));
      a[thread].at[m] = kept_halves(a[thread].at[m], mine, mine >> 1);
    }
  });
}

}  // namespace seo_kernels::cuda
