// What the device kernels of bias_act and gated_act are told. Same ops as cpu/activation_params.h.
//
// Accumulation type ("acc"): double for float64, float for all else.
#pragma once

#include "cuda/column_sums.h"
#include "semantics/activation.h"

namespace seo_kernels::cuda {

struct ActivationParams : ElementwiseParams {
  Activation activation;
  double negative_slope = 0.01;
};

// out = activation(input + bias)
struct BiasActForwardParams : ActivationParams {
  Rows input, out;
  const void* bias = nullptr;  // acc (columns,) or null
};

struct BiasActBackwardParams : ActivationParams {
  Rows input, grad_out;
  Rows grad_input;             // may be absent
  const void* bias = nullptr;  // acc (columns,) or null
  ColumnSums grad_bias;        // absent where it is not wanted
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
