// What happens to a finished tile of a product: bias, and rounding into the output.
#pragma once

#include "cpu/isa/linear/matmul.h"
#include "cpu/linear_params.h"

namespace seo_kernels::cpu {
namespace {

template <class E>
class TileWriter {
 public:
  using Acc = typename E::Acc;
  static constexpr int64_t W = kLanes<Acc>;

  explicit TileWriter(const MatmulParams& p) : p_(p) {}

  void operator()(int64_t row, int64_t rows, int64_t column, int64_t columns, Acc* values, int64_t ld) const {
    with_stored<Acc>(p_.out.dtype, [&](auto stored) {
      using S = decltype(stored);
      const Acc* bias = p_.bias ? static_cast<const Acc*>(p_.bias) + column : nullptr;
      const int64_t whole = columns / W * W;
      for (int64_t r = 0; r < rows; ++r) {
        const Acc* from = values + r * ld;
        S* to = static_cast<S*>(p_.out.data) + (row + r) * p_.out.row_stride + column;
        for (int64_t n = 0; n < whole; n += W) {
          const Vec<Acc> v = load(from + n);
          store_narrow<S, Acc>(to + n, bias ? v + load(bias + n) : v);
        }
        if (whole < columns) {
          const Vec<Acc> v = load(from + whole);
          const Vec<Acc> added = bias ? v + load_part<Acc>(bias + whole, columns - whole) : v;
          store_part<S, Acc>(to + whole, added, columns - whole);
        }
      }
    });
  }

 private:
  const MatmulParams& p_;
};

}  // namespace
}  // namespace seo_kernels::cpu
