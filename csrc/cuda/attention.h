// What the device kernels of attention are told: the problem, the plan of tiles, and where results go.
//
// Accumulation type ("acc"): double for float64, float for all else.
#pragma once

#include <cstdint>

#include "cuda/executor.h"
#include "params/attention_problem.h"
#include "params/tile_plan.h"

namespace seo_kernels::cuda {

constexpr int kTile = 64;  // query rows, and keys, of a tile
static_assert(kTile == kPanel);

// The plan in the device's memory; layouts as those of TilePlan and PanelPlan. The order of tiles, longest first: of
// one head, or, where heads differ, of (heads * tiles); panels' likewise, of key heads.
struct DevicePlan {
  int64_t tile_rows, tiles, panels;
  bool per_head;
  const int64_t* offsets;
  const PanelRun* runs;
  const int64_t* panel_offsets;
  const PanelRun* panel_runs;
  const PatternProgram* program;
  const int32_t* order;
  const int32_t* panel_order;
};

// The smallest and the largest segment of a tile's queries or of a panel's keys.
struct SegmentRange {
  int64_t low, high;
};

// One of (B, Hq, Tq): a query's and its gradients' products with the first and the last row of the relative tables.
// Where a query is further from keys than a table reaches, these rows are all that counts.
template <class Acc>
struct RowEnds {
  Acc key[2], value[2];
};

struct AttentionParams : AttentionProblem {
  DevicePlan plan;
  SegmentRange* query_ranges = nullptr;  // (B, tiles), where there are segments
  SegmentRange* key_ranges = nullptr;    // (B, panels)
  void* row_ends = nullptr;              // RowEnds of acc (B, Hq, Tq), where there are relative keys or values
  // Relative tables in the operands' type, rows narrow_ld apart, for kernels on tensor cores.
  void *narrow_key = nullptr, *narrow_value = nullptr;
};

// Of a narrow table's rows: pieces of 16 bytes.
constexpr int64_t narrow_ld(int64_t width) { return (width + 7) / 8 * 8; }

struct AttentionForwardParams : AttentionParams {
  TensorView out;
  void* lse;                  // acc (B, Hq, Tq)
  unsigned* taken = nullptr;  // of one launch, where its blocks may stay and take tile after tile
};

// Gradients; a null pointer means not wanted. Table gradients are per slot: slot s owns the s-th copy of what belongs
// to one head, and works on head s / parts.
struct AttentionBackwardParams : AttentionParams {
  TensorView out, grad_out;   // grad_out may be absent
  const void* lse;            // acc (B, Hq, Tq)
  const void* grad_lse;       // acc (B, Hq, Tq) or null
  void* delta;                // acc (B, Hq, Tq): made by attention_rows
  TensorView grad_query;      // dtype
  TensorView grad_key;        // dtype
  TensorView grad_value;      // dtype
  int64_t parts;              // slots per head
  void* slot_relative_key;    // acc (Hq * parts, 2R+1, D), zeros
  void* slot_relative_value;  // acc (Hq * parts, 2R+1, Dv), zeros
  void* slot_relative_bias;   // acc (Hq * parts, 2R+1), zeros
  void* slot_slopes;          // acc (Hq * parts), zeros
  void* slot_sinks;           // acc (Hq * parts), zeros
  int64_t mask_sizes[4];
  void* grad_mask;  // acc (mask_sizes)

  bool wants_tables() const {
    return slot_relative_key || slot_relative_value || slot_relative_bias || slot_slopes || slot_sinks;
  }
};

// to (groups, size) = from (groups, parts, size) summed over the parts, in order.
struct SumPartsParams {
  DType dtype;  // of the problem
  int64_t groups, parts, size;
  const void* from;
  void* to;
};

// What the other kernels need to know of rows: segment ranges, row_ends, and for backward delta.
void attention_rows(const AttentionParams& p, const AttentionBackwardParams* backward, Stream stream);
void attention_forward(const AttentionForwardParams& p, Stream stream);
void attention_key_gradients(const AttentionBackwardParams& p, Stream stream);
void attention_query_gradients(const AttentionBackwardParams& p, Stream stream);
void attention_mask_gradient(const AttentionBackwardParams& p, Stream stream);
void sum_parts(const SumPartsParams& p, Stream stream);

}  // namespace seo_kernels::cuda
