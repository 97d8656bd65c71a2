#include "torch/cuda/attention_tier.h"

#include <algorithm>

#include "cuda/sm80/attention.h"

namespace seo_kernels {
namespace {

std::string why(const TierDecision& decision) {
  const std::string variable = kTierVariable, name = name_of(decision.tier);
  if (decision.tier != Tier::kSimt) {
    return name + ": " + variable + " asks for tensor cores; gradients of tables, slopes, sinks and masks are simt's";
  }
  if (!decision.refusals.empty()) return name + ": " + decision.refusals;
  return name + ": tensor cores (sm80) serve where " + variable + "=sm80 asks for them";
}

TierChoice choose(const AttentionProblem& p, int64_t (*tile_rows)(const AttentionProblem&),
                  int64_t (*shared_bytes)(const AttentionProblem&)) {
  const TierDecision decision = decide_tier(p.dtype, {{Tier::kSm80, [&] { return shared_bytes(p); }}});
  return {decision.tier, decision.tier == Tier::kSimt ? cuda::kTile : tile_rows(p), why(decision)};
}

}  // namespace

TierChoice forward_tier(const AttentionProblem& p) {
  return choose(p, cuda::sm80::forward_tile_rows, cuda::sm80::forward_shared_bytes);
}

TierChoice backward_tier(const AttentionProblem& p) {
  return choose(
      p, [](const AttentionProblem&) { return int64_t{cuda::kTile}; },
      [](const AttentionProblem& problem) {
        return std::max(cuda::sm80::key_gradients_shared_bytes(problem),
                        cuda::sm80::query_gradients_shared_bytes(problem));
      });
}

}  // namespace seo_kernels
