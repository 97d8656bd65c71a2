// Blocked matrix product on one thread: C = A B for matrices of any strides and dtype, a hook per finished tile of C.
//
//   Panels<E> b(inner, columns, memory);       // memory: Panels<E>::size(inner, columns) operands
//   b.pack(matrix_b, {0, b.count()});          // shared by threads: each may pack its share first
//   Matmul<E>(matrix_a, b).run(rows, panels, on_tile);
//
// on_tile(row, rows, column, columns, values, ld): entries (row + i, column + j) of C are values[i * ld + j], in the
// accumulation type; the hook may overwrite them. What pads a row to whole vectors means nothing. Tiles of a block of
// kBlockRows rows come one panel after the other, each from the block's first row to its last.
#pragma once

#include "cpu/isa/linear/operands.h"

namespace seo_kernels::cpu {
namespace {

constexpr int64_t kBlockRows = 96;       // a multiple of kRowBlock and of kLanes
constexpr int64_t kInnerOperands = 768;  // at most, of one pass over a row block
constexpr int64_t kPassStep = 16;        // passes begin at a multiple: of kLanes, of a word of dropout bits
constexpr int64_t kPanelsOfBlock = 64;   // at most, whose sums are kept between passes

// Operands of each of the passes over so many, when a pass takes `most` at most.
inline int64_t operands_per_pass(int64_t operands, int64_t most) {
  const int64_t passes = (operands + most - 1) / most;
  return round_up(std::max<int64_t>(1, passes > 0 ? (operands + passes - 1) / passes : 1), kPassStep);
}

// Rows of a tile, unless more are asked for. Few: its values are in the nearest cache, and what the hook writes to
// memory is on its way while the next tile is computed.
template <class E>
constexpr int64_t kPieceRows = E::kPack == 1 ? kRowBlock : kBlockRows;

// Operand rows of A: where they lie if they can be read there, otherwise packed.
template <class E>
class LeftRows {
 public:
  using Operand = typename E::Operand;

  // At most max_rows rows and max_operands operands at a time.
  LeftRows(const MatrixView& matrix, int64_t max_rows, int64_t max_operands)
      : matrix_(matrix),
        in_place_(readable(matrix)),
        ld_(in_place_ ? matrix.row_stride / E::kPack : round_up(max_operands, W)),
        packed_(in_place_ ? 0 : round_up(max_rows, W) * ld_) {}

  const Operand* load(Range rows, Range operands) {
    if (in_place_) {
      return reinterpret_cast<const Operand*>(static_cast<const Stored*>(matrix_.data) +
                                              rows.begin * matrix_.row_stride + operands.begin * E::kPack);
    }
    pack_rows<E>(matrix_, rows, operands, packed_.get(), ld_);
    return packed_.get();
  }

  int64_t ld() const { return ld_; }

 private:
  static constexpr int64_t W = kLanes<typename E::Acc>;
  using Stored = std::conditional_t<E::kPack == 1, typename E::Acc, BFloat16>;

  static bool readable(const MatrixView& m) {
    constexpr DType native = E::kPack > 1                   ? DType::kBFloat16
                             : sizeof(typename E::Acc) == 8 ? DType::kFloat64
                                                            : DType::kFloat32;
    return m.dtype == native && m.column_stride == 1 && m.row_stride % E::kPack == 0 && m.columns % E::kPack == 0;
  }

  MatrixView matrix_;
  bool in_place_;
  int64_t ld_;
  Scratch<Operand> packed_;
};

template <class E>
class Matmul {
 public:
  using Acc = typename E::Acc;
  using Operand = typename E::Operand;
  static constexpr int64_t kColumns = kPanelColumns<E>;
  static constexpr int64_t kRows = kBlockRows;  // at most, between one call of on_rows and the next

  // a (rows, inner); b (inner, columns), packed before run(); piece_rows: rows of a tile, at most
  Matmul(const MatrixView& a, const Panels<E>& b, int64_t piece_rows = kPieceRows<E>)
      : b_(b),
        piece_rows_(piece_rows),
        pass_operands_(operands_per_pass(b.operands(), kInnerOperands)),
        passes_(std::max<int64_t>(1, (b.operands() + pass_operands_ - 1) / pass_operands_)),
        left_(a, kBlockRows, std::min(pass_operands_, b.operands())),
        sums_((passes_ > 1 ? std::min(kPanelsOfBlock, b.count()) : 1) * kBlockRows * kColumns) {}

  // At most this many operands of A's rows are worked on at once.
  int64_t pass_operands() const { return std::min(pass_operands_, b_.operands()); }

  template <class OnTile>
  void run(Range rows, Range panels, OnTile on_tile) {
    run(rows, panels, [](int64_t, int64_t, Range, const Operand*, int64_t) {}, on_tile);
  }

  // on_rows(row, rows, operands, a, lda): these operands of A's rows are in cache now. Called once for each part of A,
  // whatever the panels.
  template <class OnRows, class OnTile>
  void run(Range rows, Range panels, OnRows on_rows, OnTile on_tile) {
    for (int64_t row = rows.begin; row < rows.end; row += kBlockRows) {
      const Range block{row, std::min(row + kBlockRows, rows.end)};
      int64_t panel = panels.begin;
      do {
        run_block(block, {panel, std::min(panel + kPanelsOfBlock, panels.end)}, panel == panels.begin, on_rows,
                  on_tile);
        panel += kPanelsOfBlock;
      } while (panel < panels.end);
    }
  }

 private:
  template <class OnRows, class OnTile>
  void run_block(Range rows, Range panels, bool first, OnRows& on_rows, OnTile& on_tile) {
    for (int64_t pass = 0; pass < passes_; ++pass) {
      const Range operands{pass * pass_operands_, std::min((pass + 1) * pass_operands_, b_.operands())};
      const Operand* a = left_.load(rows, operands);
      if (first) on_rows(rows.begin, rows.size(), operands, a, left_.ld());
      for (int64_t panel = panels.begin; panel < panels.end; ++panel) {
        const Operand* b = b_.at(panel) + operands.begin * b_.ld();
        Ahead ahead = next_operands(panels, panel, operands);
        for (int64_t row = rows.begin; row < rows.end; row += piece_rows_) {
          const int64_t first = row - rows.begin, count = std::min(piece_rows_, rows.end - row);
          Acc* sums = sums_.get() + ((passes_ > 1 ? panel - panels.begin : 0) * kBlockRows + first) * kColumns;
          gemm<E, Lay::kRows>(count, b_.vectors(panel), operands.size(), a + first * left_.ld(), left_.ld(), b, b_.ld(),
                              sums, kColumns, pass > 0, ahead);
          if (pass + 1 == passes_) on_tile(row, count, panel * kColumns, b_.columns(panel), sums, kColumns);
          ahead = ahead.after(operands.size());
        }
      }
    }
  }

  // The operands of B that are read after these of this panel; each kRowBlock rows of the block ask for a part of them.
  // All panels together exceed the near caches, and the first rows would wait for every line.
  Ahead next_operands(Range panels, int64_t panel, Range operands) const {
    const bool last = panel + 1 == panels.end;
    const Operand* next = b_.at(last ? panels.begin : panel + 1);
    if (!last) {
      next += operands.begin * b_.ld();
    } else if (operands.end < b_.operands()) {
      next += operands.end * b_.ld();
    }
    const int64_t bytes = Ahead::kSteps * b_.ld() * static_cast<int64_t>(sizeof(Operand));
    return {reinterpret_cast<const char*>(next), bytes * kRowBlock / kBlockRows};
  }

  Panels<E> b_;
  int64_t piece_rows_;
  int64_t pass_operands_, passes_;
  LeftRows<E> left_;
  Scratch<Acc> sums_;  // (panels, block_rows, kColumns)
};

}  // namespace
}  // namespace seo_kernels::cpu
