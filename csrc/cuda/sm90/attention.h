// The tier sm90a: attention in 16 bits on Hopper's warpgroups, sums in float32.
#pragma once

#include <string>

#include "cuda/attention.h"

namespace seo_kernels::cuda::sm90 {

constexpr int64_t kForwardTileRows = 128;  // of a forward plan

// Why the tier cannot serve, dtype and device apart; "" where it can.
std::string forward_refusal(const AttentionProblem& p);
std::string backward_refusal(const AttentionBackwardParams& p);
// Of a block.
int64_t forward_shared_bytes(const AttentionProblem& p);
int64_t backward_shared_bytes(const AttentionProblem& p);

void attention_forward(const AttentionForwardParams& p, Stream stream);
void attention_key_gradients(const AttentionBackwardParams& p, Stream stream);
// Of dQ alone.
void attention_query_gradients(const AttentionBackwardParams& p, Stream stream);

}  // namespace seo_kernels::cuda::sm90
