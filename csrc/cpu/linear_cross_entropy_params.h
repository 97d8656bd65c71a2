// What the kernels of linear_cross_entropy are told: plain pointers and sizes. No tensors here.
//
// The classes are worked on in blocks, the tokens in blocks too: logits exist for a block of tokens by a block of
// classes only. Tokens whose target is ignored are left out before. Accumulation type ("acc"): double for float64,
// float for all else.
#pragma once

#include <cstdint>

#include "params/matrix_view.h"

namespace seo_kernels::cpu {

struct LinearCrossEntropyParams {
  DType dtype;             // of hidden and weight
  MatrixView hidden;       // (tokens, dim)
  MatrixView weight;       // (classes, dim)
  const void* bias;        // acc (classes), or null
  const int64_t* target;   // (tokens), each in [0, classes)
  double label_smoothing;  // in [0, 1]
  int64_t token_block, class_block;

  int64_t tokens() const { return hidden.rows; }
  int64_t classes() const { return weight.rows; }
  int64_t dim() const { return weight.columns; }
  int64_t class_blocks() const { return (classes() + class_block - 1) / class_block; }
  int64_t token_blocks() const { return (tokens() + token_block - 1) / token_block; }
};

// What a part of the classes says about a token: acc (parts, tokens) each.
struct LinearCrossEntropyForwardParams : LinearCrossEntropyParams {
  int64_t parts;
  void* largest;       // logit
  void* sum;           // of exp(logit - largest)
  void* total;         // of logits; null without label smoothing
  void* target_logit;  // acc (tokens)
  void* losses;        // acc (tokens)
  void* lse;           // acc (tokens, 2): the largest logit, and log(sum(exp(logit - largest)))
};

struct LinearCrossEntropyBackwardParams : LinearCrossEntropyParams {
  const void* grad_losses;  // acc (tokens)
  const void* lse;          // acc (tokens, 2)
  void* packed_hidden;      // see packed_bytes; null where grad_weight is
  void* sum_hidden;         // acc (tokens, dim in whole vectors); null: not wanted
  MatrixView grad_weight;   // (classes, dim), rows of neighbours; no data: not wanted
  void* grad_bias;          // acc (classes); null: not wanted
};

// A thread's part of the gradients: of these classes, by these tokens.
struct LinearCrossEntropyStep {
  int64_t class_block;
  Range token_blocks;
  bool first, last;  // of the steps for these classes, which share memory
  bool accumulate;   // into sum_hidden, which holds nothing yet otherwise
  void* memory;      // step_bytes
};

struct LinearCrossEntropyKernels {
  void (*forward)(const LinearCrossEntropyForwardParams&, int64_t part, Range class_blocks, Range token_blocks);
  void (*combine)(const LinearCrossEntropyForwardParams&, Range tokens);
  int64_t (*packed_bytes)(const LinearCrossEntropyBackwardParams&);
  int64_t (*step_bytes)(const LinearCrossEntropyBackwardParams&);
  // Width of the rows of sum_hidden.
  int64_t (*sum_width)(DType dtype, int64_t dim);
  void (*pack_hidden)(const LinearCrossEntropyBackwardParams&, Range token_blocks);
  void (*backward)(const LinearCrossEntropyBackwardParams&, const LinearCrossEntropyStep&);
  // Rows of sum_hidden, rounded, to rows[token] of a matrix with neighbouring columns.
  void (*store_hidden)(const LinearCrossEntropyBackwardParams&, const MatrixView& to, const int64_t* rows,
                       Range tokens);
};

}  // namespace seo_kernels::cpu
