// What the kernels of bias_act and gated_act are told: plain pointers and sizes. No tensors here.
//
// Matrices have neighbouring columns side by side, and all of a call have the same shape and dtype. Accumulation type
// ("acc" below): double for float64, float for all else.
#pragma once

#include <cstdint>

#include "params/matrix_view.h"
#include "semantics/activation.h"

namespace seo_kernels::cpu {

// Entries that a kernel may read, or write into sums, past the last column.
constexpr int64_t kActivationPadding = 64;

struct ActivationParams {
  Activation activation;
  double negative_slope = 0.01;
  int64_t last_columns;  // of the last row, which may be shorter
  bool stream = false;   // whether outputs bypass the caches; they begin and their rows follow at multiples of 64 bytes
};

// out = activation(input + bias)
struct BiasActForwardParams : ActivationParams {
  MatrixView input, out;
  const void* bias = nullptr;  // acc (columns + padding) or null
};

struct BiasActBackwardParams : ActivationParams {
  MatrixView input, grad_out;
  MatrixView grad_input;        // may be absent
  const void* bias = nullptr;   // acc (columns + padding) or null
  double* grad_bias = nullptr;  // (slots, columns + padding), zeros; or null. Slot s adds to the s-th row.
};

// out = activation(gate) * up
struct GatedActForwardParams : ActivationParams {
  MatrixView gate, up, out;
};

struct GatedActBackwardParams : ActivationParams {
  MatrixView gate, up, grad_out;
  MatrixView grad_gate, grad_up;  // either may be absent
};

struct ActivationKernels {
  void (*bias_act_forward)(const BiasActForwardParams&, Range rows);
  void (*bias_act_backward)(const BiasActBackwardParams&, Range rows, int64_t slot);
  void (*gated_act_forward)(const GatedActForwardParams&, Range rows);
  void (*gated_act_backward)(const GatedActBackwardParams&, Range rows);
};

}  // namespace seo_kernels::cpu
