// Which tier of kernels serves a call of attention on a GPU, and why no higher one does.
#pragma once

#include <cstdint>
#include <string>

#include "cuda/attention.h"
#include "torch/cuda/tier.h"

namespace seo_kernels {

struct TierChoice {
  Tier tier;
  int64_t tile_rows;  // queries of a tile, at most
  std::string why;
};

// For the current device, as tier.h says.
TierChoice forward_tier(const AttentionProblem& p);
// Gradients of relative tables, slopes, sinks and masks are sm80's on either tier of tensor cores.
TierChoice backward_tier(const cuda::AttentionBackwardParams& p);

}  // namespace seo_kernels
