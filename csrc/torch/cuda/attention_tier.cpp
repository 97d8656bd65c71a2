#include "torch/cuda/attention_tier.h"

#include <algorithm>

#include "cuda/sm80/attention.h"
#include "cuda/sm90/attention.h"

namespace seo_kernels {
namespace {

std::string why(const TierDecision& decision) {
  const std::string variable = kTierVariable, name = name_of(decision.tier);
  const std::string refusals = decision.refusals.empty() ? "" : ", " + decision.refusals;
  if (decision.tier != Tier::kSimt) {
    return name + ": " + variable + " asks for tensor cores" + refusals +
           "; gradients of relative tables, slopes, sinks and masks are sm80's";
  }
  if (!decision.refusals.empty()) return name + ": " + decision.refusals;
  return name + ": tensor cores (sm80, sm90a) serve where " + variable + "=sm80 or sm90a asks for them";
}

}  // namespace

TierChoice forward_tier(const AttentionProblem& p) {
  const TierDecision decision = decide_tier(
      p.dtype, {{Tier::kSm90a, [&] { return cuda::sm90::forward_shared_bytes(p); }, cuda::sm90::forward_refusal(p)},
                {Tier::kSm80, [&] { return cuda::sm80::forward_shared_bytes(p); }}});
  switch (decision.tier) {
    case Tier::kSm90a:
      return {decision.tier, cuda::sm90::kForwardTileRows, why(decision)};
    case Tier::kSm80:
      return {decision.tier, cuda::sm80::forward_tile_rows(p), why(decision)};
    default:
      return {decision.tier, cuda::kTile, why(decision)};
  }
}

TierChoice backward_tier(const cuda::AttentionBackwardParams& p) {
  const auto sm80_bytes = [&] {
    int64_t bytes = std::max(cuda::sm80::key_gradients_shared_bytes(p), cuda::sm80::query_gradients_shared_bytes(p));
    if (p.slot_relative_bias || p.slot_slopes) bytes = std::max(bytes, cuda::sm80::bias_gradients_shared_bytes(p));
    if (p.grad_mask) bytes = std::max(bytes, cuda::sm80::mask_gradient_shared_bytes(p));
    return bytes;
  };
  const TierDecision decision = decide_tier(
      p.dtype, {{Tier::kSm90a, [&] { return cuda::sm90::backward_shared_bytes(p); }, cuda::sm90::backward_refusal(p)},
                {Tier::kSm80, sm80_bytes}});
  return {decision.tier, cuda::kTile, why(decision)};
}

}  // namespace seo_kernels
