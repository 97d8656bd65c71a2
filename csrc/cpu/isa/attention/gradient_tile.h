// Weights P and score gradients dS of one query tile against a few key panels, recomputed from the saved lse.
//
// Shared by the backward pass and by the gradient of an additive mask.
#pragma once

#include "cpu/isa/attention/dropout_tile.h"
#include "cpu/isa/attention/packed_panels.h"
#include "cpu/isa/attention/score_tile.h"

namespace seo_kernels::cpu {
namespace {

template <class E>
class GradientTile {
 public:
  using Acc = typename E::Acc;
  using Operand = typename E::Operand;
  static constexpr int W = kLanes<Acc>;

  GradientTile(const AttentionBackwardParams& p, int block_panels)
      : p_(p),
        scores_(p, block_panels, true),
        values_(p.value, p.key_length, p.value_dim),
        dropout_(p, scores_.ld()),
        relative_value_(p.relative_value, p.value_dim),
        out_(p.out, p.value_dim),
        grad_out_(p.grad_out, p.value_dim),
        grad_out_ld_(E::kPack > 1 ? values_.operands_ld() : grad_out_.ld()),
        packed_grad_out_(E::kPack > 1 ? kMaxTileRows * grad_out_ld_ : 0),
        gradients_(kMaxTileRows * scores_.ld()) {}

  void begin_head(int64_t batch, int64_t key_head) {
    scores_.begin_head(batch, key_head);
    values_.begin_head(batch, key_head);
  }

  void begin_tile(int64_t head, int64_t tile, PanelRange panels) {
    scores_.begin_tile(head, tile, panels);
    scores_.expect_output(p_.grad_query, p_.dim);
    for (const TensorView* view : {&p_.query, &p_.out, &p_.grad_out}) {
      scores_.expect_queries(*view, view == &p_.query ? p_.dim : p_.value_dim);
    }
    scores_.expect_keys(p_.key, p_.dim);
    scores_.expect_keys(p_.value, p_.value_dim);
    const int64_t rows = scores_.rows(), row_begin = scores_.row_begin(), batch = scores_.batch();
    grad_out_.load(batch, head, row_begin, rows);
    grad_out_operands_ = operand_rows<E>(grad_out_.row(0), grad_out_.ld(), rows, grad_out_.padded_width(),
                                         packed_grad_out_.get(), grad_out_ld_);
    out_.load(batch, head, row_begin, rows);
    const int64_t at = (batch * p_.query_heads + head) * p_.query_length + row_begin;
    const Acc* lse = static_cast<const Acc*>(p_.lse) + at;
    const Acc* grad_lse = p_.grad_lse ? static_cast<const Acc*>(p_.grad_lse) + at : nullptr;
    for (int64_t r = 0; r < rows; ++r) {
      Vec<Acc> products{};
      for (int64_t n = 0; n < out_.padded_width(); n += W)
        products += load(grad_out_.row(r) + n) * load(out_.row(r) + n);
      const Acc sum = reduce_add<Acc>(products);
      delta_[r] = grad_lse ? sum - grad_lse[r] : sum;
      // A row that sees nothing has lse = -inf: +inf instead makes each of its weights 2^-inf = 0.
      shift_[r] = lse[r] == ScoreTile<E>::kHidden ? -ScoreTile<E>::kHidden : lse[r] * Acc(kLog2E);
    }
    if (p_.relative_value) {
      relative_value_.begin_head(head);
      relative_value_.multiply(grad_out_operands_, grad_out_ld_, rows, scores_.first_distance(),
                               scores_.last_distance());
    }
  }

  bool next_block(PanelBlock& block) {
    if (!scores_.next_block(block)) return false;
    if (p_.dropout) dropout_.fill(scores_, block);
    return true;
  }

  // After this, of these rows weights(r) holds the dropped-out weights and gradients(r) the gradients of the scores as
  // they enter the softmax; both are zero in columns that nobody sees.
  void compute(const PanelBlock& block, TileRange rows) {
    scores_.multiply(block, rows);
    scores_.multiply(block, rows, grad_out_operands_, grad_out_ld_, values_, gradients_.get());  // dP = dO V^T
    for (int64_t r = rows.begin; r < rows.end; ++r) {
      scores_.finish_row(block, r);
      if (p_.relative_value) add_relative_values(block, r);
      if (p_.dropout) {
        differentiate_row<true>(r);
      } else {
        differentiate_row<false>(r);
      }
      clear_hidden(block, r);
    }
  }

  ScoreTile<E>& scores() { return scores_; }
  Acc* weights(int64_t r) const { return scores_.row(r); }
  Acc* gradients(int64_t r) const { return gradients_.get() + r * scores_.ld(); }
  const TileRows<E>& grad_out() const { return grad_out_; }
  Acc delta(int64_t r) const { return delta_[r]; }
  // lse in the log2 domain, +inf for a row that sees nothing.
  Acc shift(int64_t r) const { return shift_[r]; }

 private:
  void add_relative_values(const PanelBlock& block, int64_t r) {
    Acc* g = gradients(r);
    scores_.for_each_vector(block, r, [&](int c, int64_t at) {
      const Acc* products = relative_value_.window(r, scores_.distance(r, block.panel[c])) + (at - c * kPanel);
      store(g + at, load(g + at) + load(products));
    });
  }

  template <bool Dropout>
  void differentiate_row(int64_t r) {
    Acc* s = scores_.row(r);
    Acc* g = gradients(r);
    const Acc* factors = Dropout ? dropout_.row(r) : nullptr;
    const Vec<Acc> shift = splat(shift_[r]), delta = splat(delta_[r]), log2_factor = splat(scores_.log2_factor());
    scores_.for_each_span(r, [&](int at, int end) {
#pragma GCC unroll 4
      for (; at < end; at += W) {
        const Vec<Acc> weight = exp2<Acc, (E::kPack > 1)>(load(s + at) * log2_factor - shift);
        Vec<Acc> gradient = load(g + at);
        Vec<Acc> dropped = weight;
        if constexpr (Dropout) {
          const Vec<Acc> factor = load(factors + at);
          gradient *= factor;
          dropped *= factor;
        }
        store(s + at, dropped);
        // A hidden column's gradient may hold anything, NaN included: its weight of zero must win.
        store(g + at, weight == Acc(0) ? Vec<Acc>{} : weight * (gradient - delta));
      }
    });
  }

  void clear_hidden(const PanelBlock& block, int64_t r) {
    for (int c = 0; c < block.count; ++c) {
      if (!block.masked[c]) continue;
      const VectorRange range = scores_.visible(block, r / kMaskRows<E>, c);
      for (Acc* row : {weights(r) + c * kPanel, gradients(r) + c * kPanel}) {
        std::fill(row, row + range.begin * W, Acc(0));
        std::fill(row + range.end * W, row + kPanel, Acc(0));
      }
    }
  }

  const AttentionBackwardParams& p_;
  ScoreTile<E> scores_;
  PackedPanels<E> values_;
  DropoutTile<E> dropout_;
  RelativeProduct<E> relative_value_;  // dO times the value table
  TileRows<E> out_, grad_out_;
  int64_t grad_out_ld_;
  Scratch<Operand> packed_grad_out_;
  const Operand* grad_out_operands_ = nullptr;  // (rows, grad_out_ld_)
  Scratch<Acc> gradients_;
  Acc delta_[kMaxTileRows], shift_[kMaxTileRows];
};

}  // namespace
}  // namespace seo_kernels::cpu
