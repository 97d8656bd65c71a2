// The gradient of what enters an activation, and the bias's: its column sums.
#include "cpu/isa/activation/vector_activation.h"
#include "cpu/isa/entry.h"
#include "cpu/isa/linear/tile_writer.h"

namespace seo_kernels::cpu {
namespace {

template <class Acc, class S>
class GradientRows {
 public:
  GradientRows(const GradientRowsParams& p, int64_t slot)
      : p_(p),
        columns_(p.grad_out.columns),
        sums_(p.column_sums ? static_cast<Acc*>(p.column_sums) + slot * columns_ : nullptr),
        block_sums_(sums_ ? round_up(columns_, W) : 0) {}

  // Sums are taken over a few rows first, then over those sums: long ones lose less.
  void run(Range rows) const {
    for (int64_t row = rows.begin; row < rows.end; row += kBlockRows) {
      const Range block{row, std::min(row + kBlockRows, rows.end)};
      if (sums_) std::fill(block_sums_.get(), block_sums_.get() + round_up(columns_, W), Acc(0));
      if (p_.activation.any) {
        with_activation(p_.activation.which, [&](auto which) {
          run_block(block, [](Vec<Acc> gradient, Vec<Acc> x) __attribute__((always_inline)) {
            constexpr bool reduced = std::is_same_v<S, BFloat16>;
            return gradient * activate_derivative<decltype(which)::value, Acc, reduced>(x, Acc(kNegativeSlope));
          });
        });
      } else {
        run_block(block, [](Vec<Acc> gradient, Vec<Acc>) __attribute__((always_inline)) { return gradient; });
      }
      for (int64_t n = 0; sums_ && n < columns_; ++n) sums_[n] += block_sums_[n];
    }
  }

 private:
  static constexpr int64_t W = kLanes<Acc>;

  template <class F>
  void run_block(Range rows, F differentiate) const {
    const int64_t whole = columns_ / W * W, rest = columns_ - whole;
    for (int64_t row = rows.begin; row < rows.end; ++row) {
      const S* grad_out = row_of(p_.grad_out, row);
      const S* before = p_.activation.any ? row_of(p_.preactivation, row) : nullptr;
      S* to = p_.grad ? row_of(p_.grad, row) : nullptr;
      for (int64_t n = 0; n < whole; n += W) {
        const Vec<Acc> x = before ? load_wide<Acc>(before + n) : Vec<Acc>{};
        const Vec<Acc> gradient = differentiate(load_wide<Acc>(grad_out + n), x);
        if (to) store_narrow<S, Acc>(to + n, gradient);
        if (sums_) store(block_sums_.get() + n, load(block_sums_.get() + n) + gradient);
      }
      if (rest > 0) {
        const Vec<Acc> x = before ? load_part<Acc>(before + whole, rest) : Vec<Acc>{};
        const Vec<Acc> gradient = differentiate(load_part<Acc>(grad_out + whole, rest), x);
        if (to) store_part<S, Acc>(to + whole, gradient, rest);
        if (sums_) store(block_sums_.get() + whole, load(block_sums_.get() + whole) + gradient);
      }
    }
  }

  static S* row_of(const MatrixView& matrix, int64_t row) {
    return static_cast<S*>(matrix.data) + row * matrix.row_stride;
  }

  const GradientRowsParams& p_;
  int64_t columns_;
  Acc* sums_;
  Scratch<Acc> block_sums_;
};

}  // namespace

void linear_gradient_rows(const GradientRowsParams& p, Range rows, int64_t slot) {
  const auto run = [&](auto zero) {
    with_stored<decltype(zero)>(
        p.grad_out.dtype, [&](auto stored) { GradientRows<decltype(zero), decltype(stored)>(p, slot).run(rows); });
  };
  p.grad_out.dtype == DType::kFloat64 ? run(0.0) : run(0.0f);
}

}  // namespace seo_kernels::cpu
