// What an attention kernel is told: plain pointers, sizes and a plan of tiles. No tensors here.
#pragma once

#include <cstdint>

#include "params/tensor_view.h"
#include "params/tile_plan.h"
#include "semantics/pattern.h"

namespace seo_kernels::cpu {

// A table over relative positions, contiguous (heads or 1, 2R+1, width), in the accumulation type.
struct RelativeTable {
  const void* data = nullptr;
  int64_t max_distance = 0;  // R
  bool per_head = false;
  bool clips = true;  // a visible pair may be further apart than R

  explicit operator bool() const { return data != nullptr; }
  int64_t rows() const { return 2 * max_distance + 1; }
};

// Accumulation type ("acc" below): double for float64, float for all else.
struct AttentionParams {
  int64_t batch, query_heads, key_heads, query_length, key_length, dim, value_dim;
  DType dtype;
  TensorView query, key, value;
  double scale, softcap;  // softcap 0: none
  int64_t query_offset;
  const PatternProgram* pattern;
  const TilePlan* plan;
  RelativeTable relative_key, relative_value, relative_bias;  // acc
  const void* slopes = nullptr;                               // acc (Hq)
  const void* sinks = nullptr;                                // acc (Hq)
  TensorView mask;                                            // bool: attend; otherwise added
  const int64_t* key_lengths = nullptr;                       // (B)
  const int64_t* query_segments = nullptr;                    // (B, Tq)
  const int64_t* key_segments = nullptr;                      // (B, Tk)
  bool dropout = false;
  double dropout_p = 0.0;
  uint64_t seed = 0;

  int64_t group() const { return query_heads / key_heads; }
  // Anything that changes a score between scaling and the mask.
  bool modifies_scores() const {
    return softcap != 0.0 || relative_bias || slopes || (mask && mask.dtype != DType::kBool);
  }
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
