// The products of a low-rank term, on row blocks that are in cache: projection down to the rank, back up into a tile,
// and the gradients of the two factors.
#pragma once

#include "cpu/isa/linear/dropped_rows.h"
#include "cpu/isa/linear/matmul.h"

namespace seo_kernels::cpu {
namespace {

// A few rows times a (inner, rank) matrix, summed over parts of the inner dimension; then, scaled, times a
// (rank, columns) matrix.
template <class E>
class Projection {
 public:
  using Acc = typename E::Acc;
  using Operand = typename E::Operand;

  Projection(const Panels<E>& down, const Panels<E>& up, int64_t rank)
      : down_(down),
        up_(up),
        rank_(rank),
        ld_(round_up(rank, kLanes<Acc> * E::kPack)),
        sums_(kBlockRows * ld_),
        scaled_(kBlockRows * ld_),
        operands_(E::kPack > 1 ? kBlockRows * ld_ : 0) {}

  // Adds a[:, operands] times the same operands of the down matrix; the first part begins anew.
  void add(int64_t rows, Range operands, const Operand* a, int64_t lda) {
    for (int64_t panel = 0; panel < down_.count(); ++panel) {
      gemm<E, Lay::kRows>(rows, down_.vectors(panel), operands.size(), a, lda,
                          down_.at(panel) + operands.begin * down_.ld(), down_.ld(),
                          sums_.get() + panel * Panels<E>::kColumns, ld_, operands.begin > 0);
    }
  }

  // All parts are in: sums *= factor; then scaling * sums will be what multiply_up takes.
  void finish(int64_t rows, Acc factor, Acc scaling) {
    for (int64_t r = 0; r < rows; ++r) {
      Acc* sums = sums_.get() + r * ld_;
      Acc* scaled = scaled_.get() + r * ld_;
      for (int64_t n = 0; n < rank_; ++n) {
        sums[n] *= factor;
        scaled[n] = sums[n] * scaling;
      }
      std::fill(scaled + rank_, scaled + ld_, Acc(0));
    }
    left_ = operand_rows<E>(scaled_.get(), ld_, rows, ld_, operands_.get(), ld_);
  }

  // values (rows.size(), ld) = or += these rows of the scaled sums times a panel of the up matrix
  void multiply_up(Range rows, int64_t panel, Acc* values, int64_t ld, bool accumulate) const {
    gemm<E, Lay::kRows>(rows.size(), up_.vectors(panel), up_.operands(), left_ + rows.begin * ld_, ld_, up_.at(panel),
                        up_.ld(), values, ld, accumulate);
  }

  // (rows, rank) with row stride ld()
  const Acc* sums() const { return sums_.get(); }
  const Acc* scaled() const { return scaled_.get(); }
  int64_t ld() const { return ld_; }

 private:
  Panels<E> down_, up_;
  int64_t rank_, ld_;
  Scratch<Acc> sums_, scaled_;
  Scratch<Operand> operands_;
  const Operand* left_ = nullptr;
};

// (rank, columns) += left^T right, a block of rows at a time.
template <class E>
class FactorGradient {
 public:
  using Acc = typename E::Acc;
  using Operand = typename E::Operand;

  // to: (rank, columns), contiguous, zeros; null when the gradient is not wanted.
  FactorGradient(void* to, int64_t rank, int64_t columns)
      : to_(static_cast<Acc*>(to)),
        rank_(rank),
        columns_(columns),
        left_ld_(round_up(operand_count<E>(kBlockRows), kLanes<Acc>)),
        left_(to ? round_up(rank, kLanes<Acc>) * left_ld_ : 0),
        right_(to ? Panels<E>::size(kBlockRows, Panels<E>::kColumns) : 0),
        last_(to ? rank * Panels<E>::kColumns : 0) {}

  explicit operator bool() const { return to_ != nullptr; }

  // (rows, rank), in the accumulation type
  void set_left(const Acc* left, int64_t ld, int64_t rows) {
    constexpr DType acc = sizeof(Acc) == 8 ? DType::kFloat64 : DType::kFloat32;
    const MatrixView transposed{const_cast<Acc*>(left), acc, rank_, rows, 1, ld};
    pack_rows<E>(transposed, {0, rank_}, {0, operand_count<E>(rows)}, left_.get(), left_ld_);
  }

  // Columns `columns` of the gradient += left^T right; right (rows, columns). columns.begin: any.
  void add(const MatrixView& right, int64_t first_column) {
    constexpr int64_t step = Panels<E>::kColumns, W = kLanes<Acc>;
    for (int64_t column = 0; column < right.columns; column += step) {
      const int64_t count = std::min(step, right.columns - column);
      const Panels<E> panel(right.rows, count, right_.get());
      panel.pack(right.block({0, right.rows}, {column, column + count}), {0, 1});
      Acc* to = to_ + first_column + column;
      if (count % W == 0) {
        gemm<E, Lay::kRows>(rank_, count / W, panel.operands(), left_.get(), left_ld_, right_.get(), panel.ld(), to,
                            columns_, true);
        continue;
      }
      gemm<E, Lay::kRows>(rank_, panel.vectors(0), panel.operands(), left_.get(), left_ld_, right_.get(), panel.ld(),
                          last_.get(), step, false);
      for (int64_t r = 0; r < rank_; ++r) {
        for (int64_t n = 0; n < count; ++n) to[r * columns_ + n] += last_[r * step + n];
      }
    }
  }

 private:
  Acc* to_;
  int64_t rank_, columns_, left_ld_;
  Scratch<Operand> left_, right_;
  Scratch<Acc> last_;
};

}  // namespace
}  // namespace seo_kernels::cpu
