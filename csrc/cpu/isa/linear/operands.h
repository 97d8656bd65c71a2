// The two sides of a matrix product as the micro-kernels read them: the left one as rows of operands, the right one in
// panels of a few vectors of columns, both from matrices of any dtype and strides.
//
// Both packers see their matrix with the inner dimension along columns: A (rows, inner), and B transposed.
#pragma once

#include "cpu/isa/scratch.h"
#include "cpu/isa/stored.h"
#include "cpu/linear_params.h"

namespace seo_kernels::cpu {
namespace {

// Columns of a packed panel: on tile registers two tiles side by side.
template <class E>
constexpr int64_t kPanelColumns = (kOnTiles<E> ? 2 : kMaxColumnVectors) * kLanes<typename E::Acc>;

template <class E>
inline int64_t operand_count(int64_t inner) {
  return (inner + E::kPack - 1) / E::kPack;
}

// kLanes operands from consecutive entries along the inner dimension.
template <class E, class S>
inline __attribute__((always_inline)) Vec<typename E::Operand> operands_along(const S* from) {
  if constexpr (E::kPack == 1) {
    return load_wide<typename E::Acc>(from);
  } else {
#if defined(SK_ISA_AVX512_BF16)
    if constexpr (std::is_same_v<S, float>) {
      return (Vec<uint32_t>)_mm512_cvtne2ps_pbh((__m512)load(from + 16), (__m512)load(from));
    } else {
      return load(reinterpret_cast<const uint32_t*>(from));
    }
#endif
  }
}

// kLanes operands, each made of entries at the same place of one row (even) or two (even, odd).
template <class E, class S>
inline __attribute__((always_inline)) Vec<typename E::Operand> operands_across(const S* even, const S* odd) {
  if constexpr (E::kPack == 1) {
    return load_wide<typename E::Acc>(even);
  } else {
#if defined(SK_ISA_AVX512_BF16)
    const auto words = [](const S* from) __attribute__((always_inline)) {
      __m256i bits;
      if constexpr (std::is_same_v<S, float>) {
        bits = (__m256i)_mm512_cvtneps_pbh((__m512)load(from));
      } else {
        std::memcpy(&bits, from, sizeof(bits));
      }
      return (Vec<uint32_t>)_mm512_cvtepu16_epi32(bits);
    };
    return words(even) | words(odd) << 16;
#endif
  }
}

// kLanes rows x kLanes operands from (row, operand) on, zeros beyond the matrix. Along: block[i] is row i, otherwise
// operand i of every row.
template <class E, class S, bool Along>
inline __attribute__((always_inline)) void load_block(const MatrixView& matrix, int64_t row, int64_t operand,
                                                      Vec<typename E::Operand> (&block)[kLanes<typename E::Acc>]) {
  using Operand = typename E::Operand;
  constexpr int64_t W = kLanes<typename E::Acc>, entries = W * E::kPack;
  const int64_t inner = operand * E::kPack;
  int64_t row_stride = matrix.row_stride, column_stride = matrix.column_stride;
  const S* at = static_cast<const S*>(matrix.data) + row * row_stride + inner * column_stride;
  alignas(64) S copy[W * entries];
  const int64_t rows = std::min(W, matrix.rows - row), columns = std::min(entries, matrix.columns - inner);
  if (rows < W || columns < entries || (row_stride != 1 && column_stride != 1)) {
    std::memset(copy, 0, sizeof(copy));
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t n = 0; n < columns; ++n) copy[r * entries + n] = at[r * row_stride + n * column_stride];
    }
    at = copy;
    row_stride = entries;
    column_stride = 1;
  }
  if (column_stride == 1) {
#pragma GCC unroll 16
    for (int i = 0; i < W; ++i) block[i] = operands_along<E>(at + i * row_stride);
    if constexpr (!Along) transpose_stage<Operand, 1>(block);
  } else {
#pragma GCC unroll 16
    for (int i = 0; i < W; ++i) {
      const S* even = at + i * E::kPack * column_stride;
      block[i] = operands_across<E>(even, even + column_stride);
    }
    if constexpr (Along) transpose_stage<Operand, 1>(block);
  }
}

// Asks for what load_block will read two blocks further along the inner dimension: the lines of a block lie whole rows
// of the matrix apart, so that the hardware does not foresee them.
template <class E, class S>
inline __attribute__((always_inline)) void prefetch_block(const MatrixView& matrix, int64_t row, int64_t operand) {
  constexpr int64_t W = kLanes<typename E::Acc>;
  const bool along = matrix.column_stride == 1;
  const int64_t lines = along ? W : W * E::kPack, stride = along ? matrix.row_stride : matrix.column_stride;
  const int64_t inner = (operand + 2 * W) * E::kPack;
  const S* at = static_cast<const S*>(matrix.data) + row * matrix.row_stride + inner * matrix.column_stride;
  for (int64_t i = 0; i < lines; ++i) __builtin_prefetch(at + i * stride, 0, 2);
}

// Calls f with a value of a type that E's operands can be made of.
template <class E, class F>
inline void with_source(DType dtype, F f) {
  if constexpr (E::kPack == 1) {
    with_stored<typename E::Acc>(dtype, f);
  } else {
    dtype == DType::kFloat32 ? f(float{}) : f(BFloat16{});
  }
}

// to (rows, ld): these rows and operands, padded with what follows them, or zeros, to whole vectors both ways.
template <class E>
inline void pack_rows(const MatrixView& matrix, Range rows, Range operands, typename E::Operand* to, int64_t ld) {
  constexpr int64_t W = kLanes<typename E::Acc>;
  with_source<E>(matrix.dtype, [&](auto stored) {
    for (int64_t operand = operands.begin; operand < operands.end; operand += W) {
      for (int64_t row = rows.begin; row < rows.end; row += W) {
        prefetch_block<E, decltype(stored)>(matrix, row, operand);
        Vec<typename E::Operand> block[W];
        load_block<E, decltype(stored), true>(matrix, row, operand, block);
        typename E::Operand* at = to + (row - rows.begin) * ld + operand - operands.begin;
#pragma GCC unroll 16
        for (int i = 0; i < W; ++i) store(at + i * ld, block[i]);
      }
    }
  });
}

// A right-hand side (inner, columns), in panels of at most kPanelColumns columns: each (operands, ld()), padded with
// zeros to whole vectors.
template <class E>
class Panels {
 public:
  using Operand = typename E::Operand;
  static constexpr int64_t W = kLanes<typename E::Acc>;
  static constexpr int64_t kColumns = kPanelColumns<E>;

  Panels() = default;
  Panels(int64_t inner, int64_t columns, void* packed)
      : columns_(columns),
        operands_(operand_count<E>(inner)),
        ld_(width(columns)),
        stride_(size(inner, columns) / std::max<int64_t>(1, count(columns))),
        packed_(static_cast<Operand*>(packed)) {}

  // Operands of memory that all panels take.
  static int64_t size(int64_t inner, int64_t columns) {
    return count(columns) * round_up(operand_count<E>(inner), W) * width(columns);
  }
  static int64_t count(int64_t columns) { return (columns + kColumns - 1) / kColumns; }

  // The same panels where only one is held at a time, in the memory of this one.
  Panels one_at_a_time(int64_t panel) const {
    Panels panels = *this;
    panels.packed_ = at(panel);
    panels.stride_ = 0;
    return panels;
  }

  int64_t count() const { return count(columns_); }
  int64_t operands() const { return operands_; }
  int64_t ld() const { return ld_; }
  // Columns of a panel, and vectors that hold them.
  int64_t columns(int64_t panel) const { return std::min(kColumns, columns_ - panel * kColumns); }
  int64_t vectors(int64_t panel) const { return (columns(panel) + W - 1) / W; }
  Operand* at(int64_t panel) const { return packed_ + panel * stride_; }

  // matrix: (inner, columns)
  void pack(const MatrixView& matrix, Range panels) const {
    const MatrixView by_column = matrix.transposed();
    // Rows that lie in memory as such are read over all panels: a panel's part of them would be a page for a few lines.
    const int64_t together = matrix.column_stride == 1 ? std::max<int64_t>(1, panels.size()) : 1;
    with_source<E>(matrix.dtype, [&](auto stored) {
      for (int64_t first = panels.begin; first < panels.end; first += together) {
        for (int64_t operand = 0; operand < operands_; operand += W) {
          for (int64_t panel = first; panel < first + together; ++panel) {
            pack_block<decltype(stored)>(by_column, panel, operand);
          }
        }
      }
    });
  }

 private:
  template <class S>
  void pack_block(const MatrixView& by_column, int64_t panel, int64_t operand) const {
    for (int64_t column = 0; column < vectors(panel) * W; column += W) {
      prefetch_block<E, S>(by_column, panel * kColumns + column, operand);
      Vec<Operand> block[W];
      load_block<E, S, false>(by_column, panel * kColumns + column, operand, block);
      Operand* to = at(panel) + operand * ld_ + column;
#pragma GCC unroll 16
      for (int i = 0; i < W; ++i) store(to + i * ld_, block[i]);
    }
  }

  static int64_t width(int64_t columns) { return std::min(kColumns, round_up(columns, W)); }

  int64_t columns_ = 0, operands_ = 0, ld_ = 0, stride_ = 0;
  Operand* packed_ = nullptr;
};

template <class E>
inline Panels<E> panels_of(const PackedMatrix& matrix) {
  return Panels<E>(matrix.matrix.rows, matrix.matrix.columns, matrix.packed);
}

}  // namespace
}  // namespace seo_kernels::cpu
