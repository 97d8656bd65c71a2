#include "torch/cuda/attention_tier.h"

#include <algorithm>
#include <cstdlib>
#include <stdexcept>
#include <string_view>

#include "cuda/device_limits.h"
#include "cuda/sm80/attention.h"

namespace seo_kernels {
namespace {

constexpr const char* kVariable = "SEO_KERNELS_TIER";

Tier asked_for() {
  const char* value = std::getenv(kVariable);
  const std::string_view name = value ? value : "";
  if (name.empty() || name == "simt") return Tier::kSimt;
  if (name == "sm80") return Tier::kSm80;
  throw std::invalid_argument(std::string(kVariable) + " is '" + value + "', expected simt or sm80");
}

// Why the tier cannot serve with blocks of so much shared memory; "" where it can.
std::string refusal_of_sm80(const AttentionProblem& p, int64_t (*shared_bytes)(const AttentionProblem&)) {
  if (!cuda::sm80::has_type(p.dtype)) return "it multiplies bfloat16 and float16 only";
  const cuda::DeviceLimits has = cuda::device_limits();
  if (has.major < 8) {
    return "the GPU has compute capability " + std::to_string(has.major) + "." + std::to_string(has.minor) +
           ", it needs 8.0";
  }
  const int64_t bytes = shared_bytes(p);
  if (bytes <= has.shared_bytes) return "";
  return "a block would take " + std::to_string(bytes) + " bytes of shared memory, the GPU has " +
         std::to_string(has.shared_bytes);
}

TierChoice choose(const AttentionProblem& p, int64_t tile_rows, int64_t (*shared_bytes)(const AttentionProblem&)) {
  const std::string variable = kVariable;
  if (asked_for() == Tier::kSimt) {
    return {Tier::kSimt, cuda::kTile, "simt: tensor cores (sm80) serve where " + variable + "=sm80 asks for them"};
  }
  const std::string refusal = refusal_of_sm80(p, shared_bytes);
  if (!refusal.empty()) return {Tier::kSimt, cuda::kTile, "simt: sm80 refuses, " + refusal};
  return {Tier::kSm80, tile_rows,
          "sm80: " + variable + " asks for tensor cores; gradients of tables, slopes, sinks and masks are simt's"};
}

}  // namespace

TierChoice forward_tier(const AttentionProblem& p) {
  const bool narrow = cuda::sm80::has_type(p.dtype);
  return choose(p, narrow ? cuda::sm80::forward_tile_rows(p) : cuda::kTile, cuda::sm80::forward_shared_bytes);
}

TierChoice backward_tier(const AttentionProblem& p) {
  return choose(p, cuda::kTile, [](const AttentionProblem& problem) {
    return std::max(cuda::sm80::key_gradients_shared_bytes(problem), cuda::sm80::query_gradients_shared_bytes(problem));
  });
}

}  // namespace seo_kernels
