#include "torch/cuda/tier.h"

#include <cstdlib>
#include <iterator>
#include <stdexcept>
#include <string_view>

#include "cuda/device_limits.h"

namespace seo_kernels {
namespace {

// A tier of tensor cores runs on its compute capability, and, unless it is bound to that one, on those after.
struct TierFacts {
  Tier tier;
  const char* name;
  int major, minor;
  bool bound;
};
constexpr TierFacts kTiers[] = {
    {Tier::kSimt, "simt", 0, 0, false}, {Tier::kSm80, "sm80", 8, 0, false}, {Tier::kSm90a, "sm90a", 9, 0, true}};

const TierFacts& facts_of(Tier tier) {
  for (const TierFacts& facts : kTiers) {
    if (facts.tier == tier) return facts;
  }
  throw std::logic_error("a tier without facts");
}

std::string version(int major, int minor) { return std::to_string(major) + "." + std::to_string(minor); }

// Why the tier cannot serve; "" where it can.
std::string refusal_of(const TierOffer& offer, DType dtype) {
  if (dtype != DType::kBFloat16 && dtype != DType::kFloat16) return "it multiplies bfloat16 and float16 only";
  if (!offer.refusal.empty()) return offer.refusal;
  const cuda::DeviceLimits has = cuda::device_limits();
  const TierFacts& facts = facts_of(offer.tier);
  const bool same = has.major == facts.major && has.minor == facts.minor;
  const bool less = has.major < facts.major || (has.major == facts.major && has.minor < facts.minor);
  if (less || (facts.bound && !same)) {
    return "the GPU has compute capability " + version(has.major, has.minor) + ", it needs " +
           version(facts.major, facts.minor);
  }
  const int64_t bytes = offer.shared_bytes();
  if (bytes <= has.shared_bytes) return "";
  return "a block would take " + std::to_string(bytes) + " bytes of shared memory, the GPU has " +
         std::to_string(has.shared_bytes);
}

}  // namespace

const char* name_of(Tier tier) { return facts_of(tier).name; }

Tier tier_asked_for() {
  const char* value = std::getenv(kTierVariable);
  const std::string_view name = value && *value ? value : "simt";
  std::string names;
  for (const TierFacts& facts : kTiers) {
    if (name == facts.name) return facts.tier;
    const bool first = &facts == std::begin(kTiers), last = &facts + 1 == std::end(kTiers);
    names += std::string(first ? "" : last ? " or " : ", ") + facts.name;
  }
  throw std::invalid_argument(std::string(kTierVariable) + " is '" + value + "', expected " + names);
}

TierDecision decide_tier(DType dtype, std::initializer_list<TierOffer> offers) {
  const Tier asked = tier_asked_for();
  TierDecision decision{Tier::kSimt, ""};
  for (const TierOffer& offer : offers) {
    if (offer.tier > asked) continue;
    const std::string refusal = refusal_of(offer, dtype);
    if (refusal.empty()) {
      decision.tier = offer.tier;
      break;
    }
    decision.refusals +=
        (decision.refusals.empty() ? "" : ", ") + std::string(name_of(offer.tier)) + " refuses, " + refusal;
  }
  return decision;
}

}  // namespace seo_kernels
