// Panels of a per-head tensor, transposed: the right-hand side of X K^T and dO V^T. Packed when first visited.
#pragma once

#include "cpu/isa/pack.h"
#include "cpu/isa/scratch.h"

namespace seo_kernels::cpu {
namespace {

template <class E>
class PackedPanels {
 public:
  using Acc = typename E::Acc;
  using Operand = typename E::Operand;

  PackedPanels(const TensorView& view, int64_t length, int64_t width)
      : view_(view),
        length_(length),
        width_(width),
        operands_(round_up((width + E::kPack - 1) / E::kPack, kLanes<Acc>)),
        panels_((length + kPanel - 1) / kPanel),
        wide_(kPanel * operands_ * E::kPack),
        narrow_(E::kPack > 1 ? kPanel * operands_ : 0),
        rows_(panels_ * operands_ * kPanel),
        packed_(panels_) {}

  void begin_head(int64_t batch, int64_t head) {
    batch_ = batch;
    head_ = head;
    std::fill(packed_.get(), packed_.get() + panels_, uint8_t{0});
  }

  // (operands(), kPanel); keys past the end are zero.
  const Operand* panel(int64_t panel) {
    Operand* to = rows_.get() + panel * operands_ * kPanel;
    if (!packed_[panel]) {
      packed_[panel] = 1;
      pack(panel, to);
    }
    return to;
  }

  int64_t operands() const { return (width_ + E::kPack - 1) / E::kPack; }
  int64_t operands_ld() const { return operands_; }

 private:
  void pack(int64_t panel, Operand* to) {
    const int64_t count = std::min(kPanel, length_ - panel * kPanel), wide_ld = operands_ * E::kPack;
    if (readable_in_place<E>(view_) && count == kPanel && width_ == operands_) {
      return transpose_panel(row_pointer<Operand>(view_, batch_, head_, panel * kPanel), view_.stride[2], operands_, to);
    }
    load_rows(view_, batch_, head_, panel * kPanel, count, width_, wide_.get(), wide_ld, kPanel);
    transpose_panel(operand_rows<E>(wide_.get(), wide_ld, kPanel, wide_ld, narrow_.get(), operands_), operands_,
                    operands_, to);
  }

  const TensorView& view_;
  int64_t length_, width_;
  int64_t operands_;  // per row, padded to whole vectors
  int64_t panels_;
  int64_t batch_ = -1, head_ = -1;
  Scratch<Acc> wide_;        // a panel of rows before rounding
  Scratch<Operand> narrow_;  // and before transposing
  Scratch<Operand> rows_;
  Scratch<uint8_t> packed_;
};

}  // namespace
}  // namespace seo_kernels::cpu
