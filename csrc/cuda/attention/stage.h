// Rows of tensors of any strides on their way into shared memory, 16 bytes at a time where they lie so.
#pragma once

#include "cuda/attention/micro_tile.h"

namespace seo_kernels::cuda {

// The rows of one (batch, head) of a tensor, or of a table.
template <class S>
struct HeadRows {
  const S* data;
  int64_t row_stride, column_stride;
  int width;
  bool chunks;  // 16 bytes of a row can be read at once, from column 0 on

  SK_DEVICE HeadRows(const S* first, int64_t row, int64_t column, int64_t columns)
      : data(first), row_stride(row), column_stride(column), width(static_cast<int>(columns)) {
    constexpr int n = kChunk<S>;
    chunks = column == 1 && row % n == 0 && columns % n == 0 && reinterpret_cast<uintptr_t>(first) % 16 == 0;
  }
  SK_DEVICE HeadRows(const TensorView& view, int64_t batch, int64_t head, int64_t columns)
      : HeadRows(static_cast<const S*>(view.data) + batch * view.stride[0] + head * view.stride[1], view.stride[2],
                 view.stride[3], columns) {}

  SK_DEVICE const S* row(int64_t n) const { return data + n * row_stride; }
};

// Calls put(r, c, N elements) for `Rows` rows and `Columns` columns from `first` on, N of them at a time; zeros past
// the last column and where row_at(r) is null.
template <int Rows, int Columns, class S, class RowAt, class Put>
SK_DEVICE inline void fetch(int thread, const HeadRows<S>& from, int first, RowAt row_at, Put put) {
  constexpr int n = kChunk<S>, per_row = Columns / n, step = kTileThreads;
  compute_anew_from(thread);
  if (from.chunks) {
#pragma unroll
    for (int at = thread; at < Rows * per_row; at += step) {
      const int r = at / per_row, c = at % per_row * n;
      const S* row = row_at(r);
      Chunk<S, n> chunk{};
      if (row && first + c < from.width) chunk = load_chunk<n>(row + first + c);
      put(r, c, chunk);
    }
    return;
  }
#pragma unroll 1
  for (int at = thread; at < Rows * Columns; at += step) {
    const int r = at / Columns, c = at % Columns;
    const S* row = row_at(r);
    Chunk<S, 1> chunk{};
    if (row && first + c < from.width) chunk.element[0] = row[(first + c) * from.column_stride];
    put(r, c, chunk);
  }
}

// Rows become columns of `ld` entries: memory[at + c * ld + r].
template <int Rows, int Columns, class S, class Memory, class RowAt>
SK_DEVICE inline void stage_turned(Memory& memory, int at, int ld, int thread, const HeadRows<S>& from, int first,
                                   RowAt row_at) {
  fetch<Rows, Columns>(thread, from, first, row_at, [&](int r, int c, const auto& chunk) {
    constexpr int n = sizeof(chunk.element) / sizeof(S);
#pragma unroll
    for (int e = 0; e < n; ++e) memory[at + (c + e) * ld + r] = AccOf<S>(widen(chunk.element[e]));
  });
}

// memory[at + r * kLd + c]
template <int Rows, class S, class Memory, class RowAt>
SK_DEVICE inline void stage_rows(Memory& memory, int at, int thread, const HeadRows<S>& from, int first, RowAt row_at) {
  fetch<Rows, kTile>(thread, from, first, row_at, [&](int r, int c, const auto& chunk) {
    constexpr int n = sizeof(chunk.element) / sizeof(S), packed = n < 4 ? n : 4;
#pragma unroll
    for (int e = 0; e < n; e += packed) {
      Pack<AccOf<S>, packed> pack;
#pragma unroll
      for (int k = 0; k < packed; ++k) pack.at[k] = AccOf<S>(widen(chunk.element[e + k]));
      if constexpr (packed == 1) {
        memory[at + r * kLd + c] = pack.at[0];
      } else {
        memory.template set_pack<packed>(at + r * kLd + c + e, pack);
      }
    }
  });
}

// A thread's neighbouring columns of one row of an output, from column `column` on.
template <class S>
SK_DEVICE inline void store_columns(S* row, int64_t column_stride, int column, int width,
                                    const AccOf<S> (&values)[kColumns], bool aligned) {
  struct alignas(sizeof(S) * kColumns < 16 ? sizeof(S) * kColumns : 16) Four {
    S element[kColumns];
  };
  if (aligned && column < width) {
    Four four;
#pragma unroll
    for (int c = 0; c < kColumns; ++c) four.element[c] = narrow<S>(values[c]);
    *reinterpret_cast<Four*>(row + column) = four;
    return;
  }
#pragma unroll
  for (int c = 0; c < kColumns; ++c) {
    if (column + c < width) row[(column + c) * column_stride] = narrow<S>(values[c]);
  }
}

// A thread's part of 64 x Width sums, times a factor, as rows of an output that end at `row_end`.
template <class S, class Sums>
SK_DEVICE inline void store_sums(S* rows, const TensorView& view, int64_t row, int64_t row_end, int column,
                                 int64_t width, const Sums& sums, AccOf<S> factor) {
  const bool aligned = width % kColumns == 0 && view.stride[3] == 1;
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    if (row + r >= row_end) break;
#pragma unroll
    for (int n = 0; n < Sums::kBlocks; ++n) {
      AccOf<S> values[kColumns];
#pragma unroll
      for (int c = 0; c < kColumns; ++c) values[c] = sums.at[n][r][c] * factor;
      store_columns<S>(rows + (row + r) * view.stride[2], view.stride[3], n * kTile + column, static_cast<int>(width),
                       values, aligned);
    }
  }
}

}  // namespace seo_kernels::cuda
