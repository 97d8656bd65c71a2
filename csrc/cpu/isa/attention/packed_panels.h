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
        packed_(panels_) {}

  void begin_head(int64_t batch, int64_t head) {
    batch_ = batch;
    head_ = head;
    std::fill(packed_.get(), packed_.get() + panels_, uint8_t{0});
  }

  // (kPanel / lanes, vector_ld()): each vector of keys is (operands(), lanes), and neighbouring panels follow one
  // another. Keys past the end are zero.
  const Operand* panel(int64_t panel) {
    if (!rows_.get()) rows_ = Scratch<Operand>(panels_ * operands_ * kPanel);
    Operand* to = rows_.get() + panel * operands_ * kPanel;
    if (!packed_[panel]) {
      packed_[panel] = 1;
      pack(panel, to);
    }
    return to;
  }

  // Products of a few rows with a panel's keys, (rows, kPanel) at c: by dot products with the keys where they lie. For
  // rows so few that packing would cost more than it brings. x: rows padded with zeros to whole vectors.
  void few_products(int64_t panel, const Operand* x, int64_t ldx, int64_t rows, Acc* c, int64_t ldc) {
    constexpr int W = kLanes<Acc>;
    int64_t ld;
    const Operand* keys = key_rows(panel, ld);
    for (int64_t key = 0; key < kPanel; key += W) {
      for (int64_t r = 0; r < rows; ++r) {
        Vec<Acc> sums[W];
#pragma GCC unroll 16
        for (int n = 0; n < W; ++n) {
          Vec<Acc> sum{};
          for (int64_t d = 0; d < operands_; d += W) {
            sum = E::multiply_add(load(x + r * ldx + d), load(keys + (key + n) * ld + d), sum);
          }
          sums[n] = sum;
        }
        transpose_stage<Acc, 1>(sums);
        Vec<Acc> total = sums[0];
#pragma GCC unroll 16
        for (int n = 1; n < W; ++n) total += sums[n];
        store(c + r * ldc + key, total);
      }
    }
  }

  int64_t vector_ld() const { return operands_ * kLanes<Acc>; }
  int64_t operands() const { return (width_ + E::kPack - 1) / E::kPack; }
  int64_t operands_ld() const { return operands_; }

 private:
  // The keys of a panel as operand rows of whole vectors, in place where they can be.
  const Operand* key_rows(int64_t panel, int64_t& ld) {
    const int64_t count = std::min(kPanel, length_ - panel * kPanel), wide_ld = operands_ * E::kPack;
    if (count == kPanel && width_ == wide_ld && operands_in_place<E>(view_)) {
      ld = view_.stride[2] / E::kPack;
      return reinterpret_cast<const Operand*>(
          row_pointer<std::conditional_t<E::kPack == 1, Acc, uint16_t>>(view_, batch_, head_, panel * kPanel));
    }
    load_rows(view_, batch_, head_, panel * kPanel, count, width_, wide_.get(), wide_ld, kPanel);
    ld = operands_;
    return operand_rows<E>(wide_.get(), wide_ld, kPanel, wide_ld, narrow_.get(), operands_);
  }

  void pack(int64_t panel, Operand* to) {
    int64_t ld;
    const Operand* keys = key_rows(panel, ld);
    transpose_panel(keys, ld, operands_, to);
  }

  const TensorView& view_;
  int64_t length_, width_;
  int64_t operands_;  // per row, padded to whole vectors
  int64_t panels_;
  int64_t batch_ = -1, head_ = -1;
  Scratch<Acc> wide_;        // a panel of rows before rounding
  Scratch<Operand> narrow_;  // and before transposing
  Scratch<Operand> rows_;    // made for the first panel: a decoding step packs none
  Scratch<uint8_t> packed_;
};

}  // namespace
}  // namespace seo_kernels::cpu
