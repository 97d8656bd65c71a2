// One attention problem, the same for kernels of every device: plain pointers and sizes. No tensors here. What is
// constexpr may be called by device code.
#pragma once

#include <cstdint>

#include "params/tensor_view.h"

namespace seo_kernels {

// A table over relative positions, contiguous (heads or 1, 2R+1, width), in the accumulation type.
struct RelativeTable {
  const void* data = nullptr;
  int64_t max_distance = 0;  // R
  bool per_head = false;
  bool clips = true;  // a visible pair may be further apart than R

  constexpr explicit operator bool() const { return data != nullptr; }
  constexpr int64_t rows() const { return 2 * max_distance + 1; }
};

// Accumulation type ("acc" below): double for float64, float for all else. Pointers are to memory of the device.
struct AttentionProblem {
  int64_t batch, query_heads, key_heads, query_length, key_length, dim, value_dim;
  DType dtype;
  TensorView query, key, value;
  double scale, softcap;  // softcap 0: none
  int64_t query_offset;
  RelativeTable relative_key, relative_value, relative_bias;  // acc
  const void* slopes = nullptr;                               // acc (Hq)
  const void* sinks = nullptr;                                // acc (Hq)
  TensorView mask;                                            // bool: attend; otherwise added
  const int64_t* key_lengths = nullptr;                       // (B)
  const int64_t* query_segments = nullptr;                    // (B, Tq)
  const int64_t* key_segments = nullptr;                      // (B, Tk)
  bool dropout = false;
  double dropout_p = 0.0;
  const int64_t* seed = nullptr;  // one, where there is dropout

  constexpr int64_t group() const { return query_heads / key_heads; }
  constexpr bool adds_mask() const { return mask && mask.dtype != DType::kBool; }
  // Anything that changes a score between scaling and the mask.
  constexpr bool modifies_scores() const { return softcap != 0.0 || relative_bias || slopes || adds_mask(); }
};

}  // namespace seo_kernels
