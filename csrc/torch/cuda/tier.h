// Tiers of kernels on a GPU, which of them serves a call, and why no higher one does.
#pragma once

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <string>

#include "params/tensor_view.h"

namespace seo_kernels {

// Ascending: what a tier cannot do the ones below serve. The lowest does everything.
enum class Tier { kSimt, kSm80, kSm90a };

// The variable of the environment that asks for a tier.
constexpr const char* kTierVariable = "SEO_KERNELS_TIER";

const char* name_of(Tier tier);
// What the variable asks for; simt by default. Throws std::invalid_argument on a name that no tier has.
Tier tier_asked_for();

// What an op's kernels of a tier take of the device, asked only where their dtype fits.
struct TierOffer {
  Tier tier;
  std::function<int64_t()> shared_bytes;  // of a block
  std::string refusal = {};               // of the op's own, where it has one
};

struct TierDecision {
  Tier tier;
  std::string refusals;  // of the higher tiers that were asked for, ", " between; "" where none refuses
};

// For the current device, among simt and what is offered, the best first.
TierDecision decide_tier(DType dtype, std::initializer_list<TierOffer> offers);

}  // namespace seo_kernels
