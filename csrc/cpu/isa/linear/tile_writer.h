// What happens to a finished tile of a product: bias, activation, and rounding into the output.
#pragma once

#include "cpu/isa/activation/vector_activation.h"
#include "cpu/isa/linear/tile_matmul.h"

namespace seo_kernels::cpu {
namespace {

// The slope of leaky_relu where an activation comes without one, as torch.nn.functional's.
constexpr double kNegativeSlope = 0.01;

// values (rows, ld) = activation(values + bias) in whole vectors; bias and preactivation may be null.
template <class E>
class TileWriter {
 public:
  using Acc = typename E::Acc;
  static constexpr int64_t W = kLanes<Acc>;

  explicit TileWriter(const MatmulParams& p) : p_(p) {}

  void operator()(int64_t row, int64_t rows, int64_t column, int64_t columns, Acc* values, int64_t ld) const {
    const Acc* bias = p_.bias ? static_cast<const Acc*>(p_.bias) + column : nullptr;
    if (!p_.activation.any) return write(p_.out, bias, row, rows, column, columns, values, ld);
    if (p_.preactivation) write(p_.preactivation, bias, row, rows, column, columns, values, ld);
    with_activation(p_.activation.which, [&](auto which) {
      for (int64_t n = 0; n < columns; n += W) {
        const Vec<Acc> added = bias ? load_part<Acc>(bias + n, std::min(W, columns - n)) : Vec<Acc>{};
        for (int64_t r = 0; r < rows; ++r) {
          Acc* at = values + r * ld + n;
          store(at, activate<decltype(which)::value, Acc, kReduced>(load(at) + added, Acc(kNegativeSlope)));
        }
      }
    });
    write(p_.out, nullptr, row, rows, column, columns, values, ld);
  }

 private:
  static constexpr bool kReduced = E::kPack > 1;  // the result is rounded to bfloat16

  static void write(const MatrixView& out, const Acc* bias, int64_t row, int64_t rows, int64_t column, int64_t columns,
                    const Acc* values, int64_t ld) {
    with_stored<Acc>(out.dtype, [&](auto stored) {
      using S = decltype(stored);
      const int64_t whole = columns / W * W, rest = columns - whole;
      for (int64_t r = 0; r < rows; ++r) {
        const Acc* from = values + r * ld;
        S* to = static_cast<S*>(out.data) + (row + r) * out.row_stride + column;
        for (int64_t n = 0; n < whole; n += W) {
          const Vec<Acc> v = load(from + n);
          store_narrow<S, Acc>(to + n, bias ? v + load(bias + n) : v);
        }
        if (rest > 0) {
          const Vec<Acc> v = load(from + whole);
          store_part<S, Acc>(to + whole, bias ? v + load_part<Acc>(bias + whole, rest) : v, rest);
        }
      }
    });
  }

  const MatmulParams& p_;
};

// The same of a product that was computed the other way round: its tiles come with rows and columns exchanged.
template <class E>
class TurnedWriter {
 public:
  using Acc = typename E::Acc;
  static constexpr int64_t kRows = kBlockRows;  // of a tile, at most

  explicit TurnedWriter(const MatmulParams& p) : write_(p), turned_(kPanelColumns<E> * kRows) {}

  void operator()(int64_t row, int64_t rows, int64_t column, int64_t columns, const Acc* values, int64_t ld) const {
    constexpr int64_t W = kLanes<Acc>;
    transpose(values, ld, round_up(rows, W), round_up(columns, W), turned_.get(), kRows);
    write_(column, columns, row, rows, turned_.get(), kRows);
  }

 private:
  TileWriter<E> write_;
  Scratch<Acc> turned_;  // (kPanelColumns, kRows)
};

}  // namespace
}  // namespace seo_kernels::cpu
