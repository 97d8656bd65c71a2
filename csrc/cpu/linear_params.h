// What the kernels of linear and lora_linear are told: plain pointers and sizes. No tensors here.
//
// Accumulation type ("acc" below): double for float64, float for all else.
#pragma once

#include <cstdint>

#include "params/matrix_view.h"
#include "semantics/activation.h"

namespace seo_kernels::cpu {

// A right-hand side (inner, columns), and the memory for its packed form: LinearKernels::panel_bytes.
struct PackedMatrix {
  MatrixView matrix;
  void* packed = nullptr;
};

struct OptionalActivation {
  bool any = false;
  Activation which{};
};

// preactivation = a b + bias, out = activation(preactivation)
struct MatmulParams {
  DType dtype;  // of a, b and out
  MatrixView a;
  PackedMatrix b;
  const void* bias = nullptr;  // acc (columns) or null
  OptionalActivation activation;
  MatrixView preactivation;  // may be absent; like out
  MatrixView out;            // neighbouring columns lie side by side
  // The product is computed the other way round, as out^T = a b: bias has an entry for each of its rows.
  bool turned = false;
};

// Rows of a up to which a product reads b where it lies.
constexpr int64_t kFewRows = 8;

// One slot's share of a product. Panels that are not packed yet are packed one by one, each into the slot's own place:
// that of panel number `slot`.
struct MatmulShare {
  Range rows, panels;
  bool packed;
  int64_t slot;
};

struct DropoutBits {
  bool any = false;
  uint64_t seed = 0;
  double p = 0.0;
};

// out = a b + bias + scaling * projected lora_b^T, projected = dropout(a) lora_a^T
struct LoraForwardParams : MatmulParams {
  PackedMatrix down;  // lora_a^T (inner, rank)
  PackedMatrix up;    // lora_b^T (rank, columns)
  void* projected;    // acc (rows, rank)
  double scaling;
  DropoutBits dropout;
};

// With V = scaling a lora_b: out = a b + dropout(V lora_a), grad_lora_b = scaling a^T projected,
// grad_lora_a = V^T dropout(input). Here a is grad_out and b the weight.
struct LoraBackwardParams : MatmulParams {
  PackedMatrix down;      // lora_b (inner, rank)
  PackedMatrix up;        // lora_a (rank, columns)
  MatrixView input;       // (rows, columns)
  const void* projected;  // acc (rows, rank)
  double scaling;
  DropoutBits dropout;
  void* grad_lora_a = nullptr;  // acc (slots, rank, columns), zeros, or null
  void* grad_lora_b = nullptr;  // acc (slots, rank, inner), zeros, or null: transposed
};

// grad = grad_out * activation'(preactivation), and its column sums. Rows of neighbouring columns.
struct GradientRowsParams {
  MatrixView grad_out;
  OptionalActivation activation;
  MatrixView preactivation, grad;  // where there is an activation
  void* column_sums = nullptr;     // acc (slots, columns), zeros, or null
};

struct LinearKernels {
  // Bytes that the packed panels of an (inner, columns) right-hand side take, and their number.
  int64_t (*panel_bytes)(DType dtype, int64_t inner, int64_t columns);
  int64_t (*panel_count)(DType dtype, int64_t columns);
  void (*pack)(DType dtype, const PackedMatrix& matrix, Range panels);
  void (*matmul)(const MatmulParams&, const MatmulShare&);
  // Of p.a.rows <= kFewRows; rows of a and columns of b have their entries side by side. Nothing is packed.
  void (*few_rows)(const MatmulParams&, Range columns);
  void (*lora_forward)(const LoraForwardParams&, const MatmulShare&);
  void (*lora_backward)(const LoraBackwardParams&, const MatmulShare&);
  void (*gradient_rows)(const GradientRowsParams&, Range rows, int64_t slot);
};

}  // namespace seo_kernels::cpu
