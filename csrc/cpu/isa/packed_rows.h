// Rows of a per-head tensor (values, keys, or queries) packed as the right-hand side of a product whose inner dimension
// runs along those rows: panels of kPanel rows, packed when first visited.
#pragma once

#include "cpu/isa/pack.h"
#include "cpu/isa/scratch.h"

namespace seo_kernels::cpu {
namespace {

template <class E>
class PackedRows {
 public:
  using Acc = typename E::Acc;
  using Operand = typename E::Operand;

  PackedRows(const TensorView& view, int64_t length, int64_t width)
      : view_(view),
        length_(length),
        width_(width),
        ld_(round_up(width, kLanes<Acc>)),
        panels_((length + kPanel - 1) / kPanel),
        rows_(panels_ * kPanel / E::kPack * ld_),
        packed_(panels_) {}

  void begin_head(int64_t batch, int64_t head) {
    batch_ = batch;
    head_ = head;
    std::fill(packed_.get(), packed_.get() + panels_, uint8_t{0});
  }

  // (kPanel / kPack, ld()); rows past the end are zero. wide: room for kPanel rows of ld().
  const Operand* panel(int64_t panel, Acc* wide) {
    Operand* to = rows_.get() + panel * kPanel / E::kPack * ld_;
    if (!packed_[panel]) {
      packed_[panel] = 1;
      const int64_t count = std::min(kPanel, length_ - panel * kPanel);
      if constexpr (E::kPack == 1) {
        load_rows(view_, batch_, head_, panel * kPanel, count, width_, to, ld_, kPanel);
      } else {
        load_rows(view_, batch_, head_, panel * kPanel, count, width_, wide, ld_, kPanel);
        to_operand_columns<E>(wide, ld_, kPanel, ld_, to, ld_);
      }
    }
    return to;
  }

  int64_t ld() const { return ld_; }

 private:
  const TensorView& view_;
  int64_t length_, width_, ld_, panels_;
  int64_t batch_ = -1, head_ = -1;
  Scratch<Operand> rows_;
  Scratch<uint8_t> packed_;
};

}  // namespace
}  // namespace seo_kernels::cpu
