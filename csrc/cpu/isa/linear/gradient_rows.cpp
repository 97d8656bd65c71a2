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
      : p_(p), sums_(p.column_sums ? static_cast<Acc*>(p.column_sums) + slot * p.grad_out.columns : nullptr) {}

  // A few rows at a time, so that long sums are summed in parts.
  void run(Range rows) const {
    for (int64_t row = rows.begin; row < rows.end; row += kBlockRows) {
      const Range block{row, std::min(row + kBlockRows, rows.end)};
      if (p_.activation.any) {
        with_activation(p_.activation.which, [&](auto which) {
          add_block(block, [](Vec<Acc> gradient, Vec<Acc> x) __attribute__((always_inline)) {
            constexpr bool reduced = std::is_same_v<S, BFloat16>;
            return gradient * activate_derivative<decltype(which)::value, Acc, reduced>(x, Acc(kNegativeSlope));
          });
        });
      } else {
        add_block(block, [](Vec<Acc> gradient, Vec<Acc>) __attribute__((always_inline)) { return gradient; });
      }
    }
  }

 private:
  static constexpr int64_t W = kLanes<Acc>;

  template <class F>
  void add_block(Range rows, F differentiate) const {
    for (int64_t column = 0; column < p_.grad_out.columns; column += W) {
      const int64_t count = std::min(W, p_.grad_out.columns - column);
      Vec<Acc> sum{};
      for (int64_t row = rows.begin; row < rows.end; ++row) {
        const Vec<Acc> x = p_.activation.any ? load_some(at(p_.preactivation, row, column), count) : Vec<Acc>{};
        const Vec<Acc> gradient = differentiate(load_some(at(p_.grad_out, row, column), count), x);
        sum += gradient;
        if (!p_.grad) continue;
        if (count == W) {
          store_narrow<S, Acc>(at(p_.grad, row, column), gradient);
        } else {
          store_part<S, Acc>(at(p_.grad, row, column), gradient, count);
        }
      }
      if (sums_) store_part<Acc, Acc>(sums_ + column, load_part<Acc>(sums_ + column, count) + sum, count);
    }
  }

  static Vec<Acc> load_some(const S* from, int64_t count) {
    return count == W ? load_wide<Acc>(from) : load_part<Acc>(from, count);
  }

  static S* at(const MatrixView& matrix, int64_t row, int64_t column) {
    return static_cast<S*>(matrix.data) + row * matrix.row_stride + column;
  }

  const GradientRowsParams& p_;
  Acc* sums_;
};

}  // namespace

void linear_gradient_rows(const GradientRowsParams& p, Range rows, int64_t slot) {
  const auto run = [&](auto zero) {
    with_stored<decltype(zero)>(p.grad_out.dtype, [&](auto stored) {
      GradientRows<decltype(zero), decltype(stored)>(p, slot).run(rows);
    });
  };
  p.grad_out.dtype == DType::kFloat64 ? run(0.0) : run(0.0f);
}

}  // namespace seo_kernels::cpu
