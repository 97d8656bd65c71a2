// What the device kernels of bias_act and gated_act are told. Same ops as cpu/activation_params.h.
//
// All matrices of a call have the same rows, columns and dtype, and neighbouring columns side by side. Accumulation
// type
// ("acc"): double for float64, float for all else.
#pragma once

#include <cstdint>

#include "cuda/element.h"
#include "semantics/activation.h"

namespace seo_kernels::cuda {

struct Rows {
  void* data = nullptr;  // null where the matrix is absent
  int64_t stride = 0;    // in elements

  template <class S>
  SK_DEVICE S* at(int64_t row, int64_t column) const {
    return static_cast<S*>(data) + row * stride + column;
  }
};

struct ActivationParams {
  DType dtype;
  Activation activation;
  double negative_slope = 0.01;
  int64_t rows, columns;
  int64_t last_columns;  // of the last row, which may be shorter
};

// out = activation(input + bias)
struct BiasActForwardParams : ActivationParams {
  Rows input, out;
  const void* bias = nullptr;  // acc (columns,) or null
};

// Rows of a block's tile: few enough that the sums over the tiles are cheap.
int64_t activation_tile_rows(int64_t rows);
// Counters that a backward with sums takes.
int64_t activation_column_tiles(int64_t columns);

struct BiasActBackwardParams : ActivationParams {
  Rows input, grad_out;
  Rows grad_input;               // may be absent
  const void* bias = nullptr;    // acc (columns,) or null
  double* grad_bias = nullptr;   // (columns,); null where it is not wanted
  double* parts = nullptr;       // (ceil(rows / activation_tile_rows), columns), any contents
  unsigned* counters = nullptr;  // (activation_column_tiles,), zeros
};

// out = activation(gate) * up
struct GatedActForwardParams : ActivationParams {
  Rows gate, up, out;
};

struct GatedActBackwardParams : ActivationParams {
  Rows gate, up, grad_out;
  Rows grad_gate, grad_up;  // either may be absent
};

void bias_act_forward(const BiasActForwardParams& p, Stream stream);
void bias_act_backward(const BiasActBackwardParams& p, Stream stream);
void gated_act_forward(const GatedActForwardParams& p, Stream stream);
void gated_act_backward(const GatedActBackwardParams& p, Stream stream);

}  // namespace seo_kernels::cuda
