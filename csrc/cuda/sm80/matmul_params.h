// What a matrix product on tensor cores is told:
//
//   out (rows, columns) = sum over its terms of  left (rows, inner) . right (columns, inner)^T
//
// A term more extends the inner dimension: both add up in the same registers. Operands have 16 bits, sums are float32.
// Any strides are right; pieces of 16 bytes along either dimension are fast. A left operand may have more inner columns
// than the right: zeros, so that its rows are whole pieces.
#pragma once

#include <stdexcept>
#include <string>

#include "cuda/executor.h"
#include "params/matrix_view.h"

namespace seo_kernels::cuda {

// An operand as it is read: lines of neighbouring entries. Lines are the operand's rows, or, where it is turned, its
// columns: the inner dimension.
struct MatmulOperand {
  const void* data = nullptr;
  int64_t line_stride = 0, column_stride = 1;
  int lines = 0, columns = 0;
  bool chunks = false;  // lines lie in whole pieces of 16 bytes

  MatmulOperand() = default;
  MatmulOperand(const MatrixView& view, bool turned)
      : data(view.data),
        line_stride(turned ? view.column_stride : view.row_stride),
        column_stride(turned ? view.row_stride : view.column_stride),
        lines(static_cast<int>(turned ? view.columns : view.rows)),
        columns(static_cast<int>(turned ? view.rows : view.columns)) {
    chunks = (column_stride == 1 || columns == 1) && columns % 8 == 0 && (line_stride % 8 == 0 || lines == 1) &&
             reinterpret_cast<uintptr_t>(data) % 16 == 0;
  }
};

struct MatmulTerm {
  MatmulOperand left, right;
  int steps = 0;  // of the inner dimension
};

struct MatmulParams {
  static constexpr int kInnerStep = 32;  // of the inner dimension, staged at a time

  DType dtype;  // of the operands
  int rows, columns;
  bool left_turned, right_turned;  // of every term
  MatmulTerm terms[2];             // the second may have no steps

  // The first term, whose layouts are those that are fast.
  MatmulParams(const MatrixView& left, const MatrixView& right)
      : MatmulParams(left, right, is_turned(left), is_turned(right)) {}
  MatmulParams(const MatrixView& left, const MatrixView& right, bool left_is_turned, bool right_is_turned)
      : dtype(left.dtype),
        rows(static_cast<int>(left.rows)),
        columns(static_cast<int>(right.rows)),
        left_turned(left_is_turned),
        right_turned(right_is_turned) {
    set_term(0, left, right);
  }

  static MatmulParams with_left_rows(const MatrixView& left, const MatrixView& right) {
    return {left, right, false, is_turned(right)};
  }

  void add(const MatrixView& left, const MatrixView& right) { set_term(1, left, right); }

  SK_DEVICE int steps() const { return terms[0].steps + terms[1].steps; }

  // Whether neighbours lie side by side along the columns' dimension rather than the inner one.
  static bool is_turned(const MatrixView& operand) { return operand.column_stride != 1 && operand.row_stride == 1; }

 private:
  void set_term(int n, const MatrixView& left, const MatrixView& right) {
    constexpr int64_t most = int64_t{1} << 30;  // kernels count in 32 bits
    if (left.rows > most || right.rows > most || left.columns > most) {
      throw std::invalid_argument("a matrix product is (" + std::to_string(left.rows) + ", " +
                                  std::to_string(left.columns) + ") times (" + std::to_string(left.columns) + ", " +
                                  std::to_string(right.rows) + "), expected sizes of at most 2^30");
    }
    if (left.rows != rows || right.rows != columns || left.columns < right.columns || left.dtype != dtype ||
        right.dtype != dtype) {
      throw std::logic_error("operands of a matrix product that do not fit");
    }
    terms[n].left = MatmulOperand(left, left_turned);
    terms[n].right = MatmulOperand(right, right_turned);
    terms[n].steps = static_cast<int>((left.columns + kInnerStep - 1) / kInnerStep);
  }
};

}  // namespace seo_kernels::cuda
