// The tier of compute capability 8.0: attention in 16 bits on tensor cores, sums in float32.
#pragma once

#include "cuda/attention.h"

namespace seo_kernels::cuda::sm80 {

constexpr bool has_type(DType dtype) { return dtype == DType::kBFloat16 || dtype == DType::kFloat16; }

// Of a forward plan; backward's tiles have kTile.
int64_t forward_tile_rows(const AttentionProblem& p);
// Of a block.
int64_t forward_shared_bytes(const AttentionProblem& p);
int64_t key_gradients_shared_bytes(const AttentionProblem& p);
int64_t query_gradients_shared_bytes(const AttentionProblem& p);
int64_t bias_gradients_shared_bytes(const AttentionProblem& p);
int64_t mask_gradient_shared_bytes(const AttentionProblem& p);

// Relative tables enter products in the operands' type, as keys and values do: `to` is (heads or 1, 2R+1, narrow_ld).
void narrow_table(DType dtype, const RelativeTable& table, int64_t heads, int64_t width, void* to, Stream stream);

void attention_forward(const AttentionForwardParams& p, Stream stream);
void attention_key_gradients(const AttentionBackwardParams& p, Stream stream);
// Of dQ alone.
void attention_query_gradients(const AttentionBackwardParams& p, Stream stream);
// Of relative keys and values, in their slots.
void attention_table_gradients(const AttentionBackwardParams& p, Stream stream);
// Of relative biases and slopes, in their slots.
void attention_bias_gradients(const AttentionBackwardParams& p, Stream stream);
void attention_sink_gradients(const AttentionBackwardParams& p, Stream stream);
void attention_mask_gradient(const AttentionBackwardParams& p, Stream stream);

}  // namespace seo_kernels::cuda::sm80
