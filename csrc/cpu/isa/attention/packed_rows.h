// Rows of a per-head tensor (values, keys, or queries) packed as the right-hand side of a product whose inner dimension
// runs along those rows: panels of kPanel rows, packed when first visited.
#pragma once

#include "cpu/isa/pack.h"
#include "cpu/isa/scratch.h"

namespace seo_kernels::cpu {
namespace {

// The rows of one query tile in the accumulation type: in place, or copied and padded with zeros.
template <class E>
class TileRows {
 public:
  using Acc = typename E::Acc;
  static constexpr int kPad = kLanes<Acc> * E::kPack;  // the row length is a multiple of this

  TileRows(const TensorView& view, int64_t width)
      : view_(view),
        width_(width),
        in_place_(readable_in_place<E>(view) && width % kPad == 0),
        ld_(in_place_ ? view.stride[2] : round_up(width, kPad)),
        copy_(in_place_ ? 0 : kMaxTileRows * ld_) {}

  void load(int64_t batch, int64_t head, int64_t row, int64_t rows) {
    if (in_place_) {
      data_ = row_pointer<Acc>(view_, batch, head, row);
      return;
    }
    data_ = copy_.get();
    if (view_) {
      load_rows(view_, batch, head, row, rows, width_, copy_.get(), ld_, rows);
    } else {
      std::fill(copy_.get(), copy_.get() + rows * ld_, Acc(0));
    }
  }

  const Acc* row(int64_t r) const { return data_ + r * ld_; }
  int64_t ld() const { return ld_; }
  int64_t padded_width() const { return round_up(width_, kPad); }

 private:
  const TensorView& view_;
  int64_t width_;
  bool in_place_;
  int64_t ld_;
  Scratch<Acc> copy_;
  const Acc* data_ = nullptr;
};

template <class E>
class PackedRows {
 public:
  using Acc = typename E::Acc;
  using Operand = typename E::Operand;

  PackedRows(const TensorView& view, int64_t length, int64_t width)
      : view_(view),
        width_(width),
        in_place_(readable_in_place<E>(view) && width % kLanes<Acc> == 0),
        ld_(in_place_ ? view.stride[2] : round_up(width, kLanes<Acc>)),
        panels_((length + kPanel - 1) / kPanel),
        rows_(in_place_ ? 0 : panels_ * kPanel / E::kPack * ld_),
        packed_(panels_),
        wide_(E::kPack > 1 ? kPanel * ld_ : 0) {}

  // Rows from `length` on are not looked at, whatever they hold.
  void begin_head(int64_t batch, int64_t head, int64_t length) {
    batch_ = batch;
    head_ = head;
    length_ = length;
    std::fill(packed_.get(), packed_.get() + panels_, uint8_t{0});
  }

  // (kPanel / kPack, ld()), neighbours one after the other; rows past the end must not be read.
  const Operand* panel(int64_t panel) {
    if constexpr (E::kPack == 1) {
      if (in_place_) return row_pointer<Operand>(view_, batch_, head_, panel * kPanel);
    }
    Operand* to = rows_.get() + panel * kPanel / E::kPack * ld_;
    if (!packed_[panel]) {
      packed_[panel] = 1;
      const int64_t count = std::min(kPanel, length_ - panel * kPanel);
      if constexpr (E::kPack == 1) {
        load_rows(view_, batch_, head_, panel * kPanel, count, width_, to, ld_, kPanel);
      } else {
        load_rows(view_, batch_, head_, panel * kPanel, count, width_, wide_.get(), ld_, kPanel);
        to_operand_columns<E>(wide_.get(), ld_, kPanel, ld_, to, ld_);
      }
    }
    return to;
  }

  int64_t ld() const { return ld_; }

 private:
  const TensorView& view_;
  int64_t width_;
  bool in_place_;
  int64_t ld_, panels_;
  int64_t length_ = 0, batch_ = -1, head_ = -1;
  Scratch<Operand> rows_;
  Scratch<uint8_t> packed_;
  Scratch<Acc> wide_;  // a panel before rounding
};

}  // namespace
}  // namespace seo_kernels::cpu
