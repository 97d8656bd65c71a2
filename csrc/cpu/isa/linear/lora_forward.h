// lora_linear's forward on one thread: out = a W^T + bias + scaling * projected lora_b^T.
#pragma once

#include "cpu/isa/linear/low_rank.h"
#include "cpu/isa/linear/tile_writer.h"

namespace seo_kernels::cpu {
namespace {

template <class E>
class LoraForward {
 public:
  using Acc = typename E::Acc;
  using Operand = typename E::Operand;
  // What dropout sets to zero: accs, or the halves of a pair.
  using Element = std::conditional_t<E::kPack == 1, Acc, uint16_t>;

  LoraForward(const LoraForwardParams& p, const MatmulShare& share)
      : p_(p),
        share_(share),
        base_(panels_of<E>(p.b)),
        up_(panels_of<E>(p.up)),
        one_base_(share.packed ? base_ : base_.one_at_a_time(share.slot)),
        one_up_(share.packed ? up_ : up_.one_at_a_time(share.slot)),
        product_(p.a, one_base_),
        projection_(panels_of<E>(p.down), one_up_, p.up.matrix.rows),
        kept_(p.dropout, kBlockRows, p.a.columns),
        dropped_ld_(round_up(product_.pass_operands(), kLanes<Acc>)),
        dropped_(p.dropout.any ? kBlockRows * dropped_ld_ : 0),
        write_(p) {}

  void run() {
    const auto project = [&](int64_t row, int64_t rows, Range operands, const Operand* a, int64_t lda) {
      this->project(row, rows, operands, a, lda);
    };
    const auto finish = [&](int64_t row, int64_t rows, int64_t column, int64_t columns, Acc* values, int64_t ld) {
      const int64_t first = row - block_;
      projection_.multiply_up({first, first + rows}, column / Panels<E>::kColumns, values, ld, true);
      write_(row, rows, column, columns, values, ld);
    };
    if (share_.packed) return product_.run(share_.rows, share_.panels, project, finish);
    // few rows: one block of them, projected once, against one panel after the other
    for (int64_t row = share_.rows.begin; row < share_.rows.end; row += kBlockRows) {
      const Range rows{row, std::min(row + kBlockRows, share_.rows.end)};
      for (int64_t panel = share_.panels.begin; panel < share_.panels.end; ++panel) {
        one_base_.pack(p_.b.matrix, {panel, panel + 1});
        one_up_.pack(p_.up.matrix, {panel, panel + 1});
        if (panel == share_.panels.begin) {
          product_.run(rows, {panel, panel + 1}, project, finish);
        } else {
          product_.run(rows, {panel, panel + 1}, finish);
        }
      }
    }
  }

 private:
  void project(int64_t row, int64_t rows, Range operands, const Operand* a, int64_t lda) {
    block_ = row;
    const bool last = operands.end == base_.operands();
    if (p_.dropout.any) {
      if (operands.begin == 0) kept_.draw({row, row + rows});
      const Range columns{operands.begin * E::kPack, std::min(operands.end * E::kPack, p_.a.columns)};
      // an odd last column's pair ends in a zero of its own
      if (columns.size() % E::kPack != 0) clear_last(rows, operands.size());
      kept_.select(rows, columns, reinterpret_cast<const Element*>(a), lda * E::kPack,
                   reinterpret_cast<Element*>(dropped_.get()), dropped_ld_ * E::kPack);
      a = dropped_.get();
      lda = dropped_ld_;
    }
    projection_.add(rows, operands, a, lda);
    if (!last) return;
    const double kept = p_.dropout.any ? 1.0 / (1.0 - p_.dropout.p) : 1.0;
    projection_.finish(rows, static_cast<Acc>(kept), static_cast<Acc>(p_.scaling));
    if (share_.panels.begin > 0) return;  // another share has written them
    const int64_t rank = p_.up.matrix.rows;
    for (int64_t r = 0; r < rows; ++r) {
      std::copy_n(projection_.sums() + r * projection_.ld(), rank, static_cast<Acc*>(p_.projected) + (row + r) * rank);
    }
  }

  void clear_last(int64_t rows, int64_t operands) {
    for (int64_t r = 0; r < rows; ++r) dropped_[r * dropped_ld_ + operands - 1] = 0;
  }

  const LoraForwardParams& p_;
  MatmulShare share_;
  Panels<E> base_, up_, one_base_, one_up_;
  Matmul<E> product_;
  Projection<E> projection_;
  KeptEntries kept_;
  int64_t dropped_ld_;
  Scratch<Operand> dropped_;
  int64_t block_ = 0;  // the first of the rows that are projected
  TileWriter<E> write_;
};

}  // namespace
}  // namespace seo_kernels::cpu
