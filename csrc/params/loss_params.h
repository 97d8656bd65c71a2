// What a loss kernel of any device is told: plain pointers and sizes. No tensors here.
#pragma once

#include <cstdint>

#include "params/matrix_view.h"

namespace seo_kernels {

// Accumulation type ("acc" below): double for float64, float for all else.

// A loss of rows of class scores with one target class each: cross entropy, or focal loss.
struct ClassLossParams {
  int64_t rows, classes;
  MatrixView input;        // (rows, classes)
  const int64_t* target;   // (rows), in [0, classes) or ignore_index
  const void* weight;      // acc (classes), or null: all 1
  int64_t ignore_index;    //
  bool focal;              // (1 - p)^gamma times the cross entropy, which has no label smoothing then
  double gamma;            // at least 0
  double label_smoothing;  // in [0, 1]
};

struct ClassLossForwardParams : ClassLossParams {
  void* losses;  // acc (rows)
  void* lse;     // acc (rows, 2): the largest score, and log(sum(exp(score - largest)))
};

struct ClassLossBackwardParams : ClassLossParams {
  const void* grad_losses;  // acc (rows)
  const void* lse;          // acc (rows, 2)
  const void* weight_sum;   // acc (1): of the weights; null where there are none, or no label smoothing
  void* grad_input;         // dtype of the input, contiguous (rows, classes)
};

// Cross entropy between rows of class scores and rows of class probabilities.
struct SoftLossParams {
  int64_t rows, classes;
  MatrixView input, target;  // (rows, classes)
  const void* weight;        // acc (classes), or null: all 1
  double label_smoothing;    // in [0, 1]
};

struct SoftLossForwardParams : SoftLossParams {
  void* losses;  // acc (rows)
  void* lse;     // acc (rows, 2): the largest score, and log(sum(exp(score - largest)))
};

// Gradients have the dtype of what they belong to and are contiguous (rows, classes); null: not wanted.
struct SoftLossBackwardParams : SoftLossParams {
  const void* grad_losses;  // acc (rows)
  const void* lse;          // acc (rows, 2)
  void* grad_input;
  void* grad_target;
};

// Huber's loss of every entry, or its sums over blocks of kHuberBlock neighbours in a row.
constexpr int64_t kHuberBlock = 4096;

struct HuberParams {
  int64_t rows, columns;
  DType acc;                         // kFloat64 or kFloat32
  MatrixView input, target, weight;  // (rows, columns); weight may be absent
  double delta;                      // above 0
  bool sums;

  constexpr int64_t blocks() const { return (columns + kHuberBlock - 1) / kHuberBlock; }
};

struct HuberForwardParams : HuberParams {
  void* losses;  // acc, contiguous (rows, blocks) for sums, (rows, columns) otherwise
};

struct HuberBackwardParams : HuberParams {
  const void* grad_losses;  // as the losses
  void* grad_input;         // dtype of the input, contiguous (rows, columns); null: not wanted
  void* grad_target;        // the same of the target
  void* grad_weight;        // the same of the weight
};

}  // namespace seo_kernels
