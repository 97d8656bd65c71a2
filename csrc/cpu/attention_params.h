// What an attention kernel of the CPU is told: the problem, a plan of tiles, and where results go.
#pragma once

#include <cstdint>

#include "params/attention_problem.h"
#include "params/tile_plan.h"

namespace seo_kernels::cpu {

struct AttentionParams : AttentionProblem {
  const PatternProgram* pattern;
  const TilePlan* plan;
};

struct AttentionForwardParams : AttentionParams {
  TensorView out;
  void* lse;  // acc (B, Hq, Tq)
};

// Gradients; a null pointer means not wanted. Table gradients are per slot: slot s owns the s-th copy.
struct AttentionBackwardParams : AttentionParams {
  TensorView out, grad_out;   // grad_out may be absent
  const void* lse;            // acc (B, Hq, Tq)
  const void* grad_lse;       // acc (B, Hq, Tq) or null
  TensorView grad_query;      // dtype
  TensorView grad_key;        // dtype
  TensorView grad_value;      // dtype
  void* grad_relative_key;    // acc (slots, heads or 1, 2R+1, D)
  void* grad_relative_value;  // acc (slots, heads or 1, 2R+1, Dv)
  void* grad_relative_bias;   // acc (slots, Hq, 2R+1)
  void* grad_slopes;          // acc (slots, Hq)
  void* grad_sinks;           // acc (slots, Hq)
  void* partial_key;          // acc (slots, 2, Tk, D): heads that a slot shares with its neighbours
  void* partial_value;        // acc (slots, 2, Tk, Dv)
};

// The gradient of an additive mask, summed over whatever the mask broadcasts over.
struct AttentionMaskGradientParams : AttentionBackwardParams {
  int64_t mask_sizes[4];
  void* grad_mask;  // acc, contiguous (mask_sizes)
};

// A unit of work is one query tile of one (batch, query head); units are numbered (batch, key head, group member,
// tile).
struct UnitRange {
  int64_t begin, end;
};

struct AttentionKernels {
  void (*forward)(const AttentionForwardParams&, UnitRange);
  void (*backward)(const AttentionBackwardParams&, UnitRange, int64_t slot);
  // Adds up the partial key and value gradients of heads [begin, end) that several slots worked on.
  void (*combine)(const AttentionBackwardParams&, const UnitRange* slots, int64_t slot_count, int64_t head_begin,
                  int64_t head_end);
  void (*mask_gradient)(const AttentionMaskGradientParams&, int64_t begin, int64_t end);
};

}  // namespace seo_kernels::cpu
