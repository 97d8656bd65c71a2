// lora_linear's backward on one thread, in one pass over the rows of grad_out: with V = scaling grad_out lora_b,
//
//   grad_input = grad_out W + dropout(V lora_a),  grad_lora_a = V^T dropout(input),
//   grad_lora_b^T = (scaling projected)^T grad_out.
#pragma once

#include "cpu/isa/linear/low_rank.h"
#include "cpu/isa/linear/tile_writer.h"

namespace seo_kernels::cpu {
namespace {

template <class E>
class LoraBackward {
 public:
  using Acc = typename E::Acc;
  using Operand = typename E::Operand;
  using Element = std::conditional_t<E::kPack == 1, Acc, uint16_t>;

  LoraBackward(const LoraBackwardParams& p, const MatmulShare& share)
      : p_(p),
        share_(share),
        rank_(p.up.matrix.rows),
        columns_(p.input.columns),
        base_(panels_of<E>(p.b)),
        up_(panels_of<E>(p.up)),
        one_base_(share.packed ? base_ : base_.one_at_a_time(share.slot)),
        one_up_(share.packed ? up_ : up_.one_at_a_time(share.slot)),
        product_(p.a, one_base_),
        projection_(panels_of<E>(p.down), one_up_, rank_),
        grad_a_(part(p.grad_lora_a, share.slot * rank_ * columns_), rank_, columns_),
        grad_b_(part(p.grad_lora_b, share.slot * rank_ * p.a.columns), rank_, p.a.columns),
        scaled_(grad_b_ ? Matmul<E>::kRows * rank_ : 0),
        kept_(p.dropout, Matmul<E>::kRows, columns_),
        dropped_ld_(round_up(columns_, kLanes<Acc> * E::kPack)),
        dropped_(p.dropout.any && grad_a_ ? Matmul<E>::kRows * dropped_ld_ : 0),
        input_(p.input, p.dropout.any && grad_a_ ? Matmul<E>::kRows : 0, operand_count<E>(columns_)),
        raised_(p.dropout.any ? Matmul<E>::kRows * Panels<E>::kColumns : 0),
        write_(p) {}

  void run() {
    const auto on_rows = [&](int64_t row, int64_t rows, Range operands, const Operand* a, int64_t lda) {
      block_row_ = row;
      this->on_rows(row, rows, operands, a, lda);
    };
    const auto finish = [&](int64_t row, int64_t rows, int64_t column, int64_t columns, Acc* values, int64_t ld) {
      this->add_low_rank({row - block_row_, row - block_row_ + rows}, column, columns, values, ld);
      write_(row, rows, column, columns, values, ld);
    };
    if (share_.packed) return product_.run(share_.rows, share_.panels, on_rows, finish);
    for (int64_t row = share_.rows.begin; row < share_.rows.end; row += Matmul<E>::kRows) {
      const Range rows{row, std::min(row + Matmul<E>::kRows, share_.rows.end)};
      for (int64_t panel = share_.panels.begin; panel < share_.panels.end; ++panel) {
        one_base_.pack(p_.b.matrix, {panel, panel + 1});
        one_up_.pack(p_.up.matrix, {panel, panel + 1});
        if (panel == share_.panels.begin) {
          product_.run(rows, {panel, panel + 1}, on_rows, finish);
        } else {
          product_.run(rows, {panel, panel + 1}, finish);
        }
      }
    }
  }

 private:
  // This slot's copy. Where several shares have the same rows, the first alone sums over them.
  void* part(void* data, int64_t offset) const {
    return data && share_.panels.begin == 0 ? static_cast<Acc*>(data) + offset : nullptr;
  }

  void on_rows(int64_t row, int64_t rows, Range operands, const Operand* a, int64_t lda) {
    const Range block{row, row + rows};
    projection_.add(rows, operands, a, lda);
    if (grad_b_) {
      if (operands.begin == 0) set_projected(row, rows);
      const Range columns{operands.begin * E::kPack, std::min(operands.end * E::kPack, p_.a.columns)};
      grad_b_.add(p_.a.block(block, columns), columns.begin);
    }
    if (operands.end != base_.operands()) return;
    // what dropout divides by is taken into V: both that V is for pass through the dropout
    const double factor = p_.scaling * (p_.dropout.any ? 1.0 / (1.0 - p_.dropout.p) : 1.0);
    projection_.finish(rows, Acc(1), static_cast<Acc>(factor));
    if (p_.dropout.any) kept_.draw(block);
    if (grad_a_) {
      grad_a_.set_left(projection_.scaled(), projection_.ld(), rows);
      grad_a_.add(p_.dropout.any ? dropped_input(block) : p_.input.block(block, {0, columns_}), 0);
    }
  }

  void set_projected(int64_t row, int64_t rows) {
    const Acc* from = static_cast<const Acc*>(p_.projected) + row * rank_;
    for (int64_t n = 0; n < rows * rank_; ++n) scaled_[n] = from[n] * static_cast<Acc>(p_.scaling);
    grad_b_.set_left(scaled_.get(), rank_, rows);
  }

  MatrixView dropped_input(Range rows) {
    constexpr DType element = E::kPack > 1 ? DType::kBFloat16 : sizeof(Acc) == 8 ? DType::kFloat64 : DType::kFloat32;
    const Operand* operands = input_.load(rows, {0, operand_count<E>(columns_)});
    kept_.select(rows.size(), {0, columns_}, reinterpret_cast<const Element*>(operands), input_.ld() * E::kPack,
                 dropped_.get(), dropped_ld_);
    return {dropped_.get(), element, rows.size(), columns_, dropped_ld_, 1};
  }

  // rows: of the block
  void add_low_rank(Range rows, int64_t column, int64_t columns, Acc* values, int64_t ld) {
    const int64_t panel = column / Panels<E>::kColumns;
    if (!p_.dropout.any) return projection_.multiply_up(rows, panel, values, ld, true);
    projection_.multiply_up(rows, panel, raised_.get(), Panels<E>::kColumns, false);
    for (int64_t r = 0; r < rows.size(); ++r) {
      const Acc* raised = raised_.get() + r * Panels<E>::kColumns;
      for (int64_t n = 0; n < columns; n += kLanes<Acc>) {
        const Mask<Acc> kept = bits_to_mask<Acc>(kept_.lanes<Acc>(rows.begin + r, column + n));
        Acc* to = values + r * ld + n;
        store(to, load(to) + (kept ? load(raised + n) : Vec<Acc>{}));
      }
    }
  }

  const LoraBackwardParams& p_;
  MatmulShare share_;
  int64_t rank_, columns_;
  Panels<E> base_, up_, one_base_, one_up_;
  Matmul<E> product_;
  Projection<E> projection_;
  int64_t block_row_ = 0;  // the first of what is projected
  FactorGradient<E> grad_a_, grad_b_;
  Scratch<Acc> scaled_;  // scaling * projected (rows, rank)
  KeptEntries kept_;
  int64_t dropped_ld_;
  Scratch<Element> dropped_;
  LeftRows<E> input_;
  Scratch<Acc> raised_;  // V lora_a of a tile
  TileWriter<E> write_;
};

}  // namespace
}  // namespace seo_kernels::cpu
