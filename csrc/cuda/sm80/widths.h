// How large tiles are for which heads: one table that host and kernels read.
#pragma once

#include "cuda/attention/widths.h"
#include "cuda/device_limits.h"
#include "cuda/element.h"
#include "params/attention_problem.h"

namespace seo_kernels::cuda {

// What a kernel does to scores between product and softmax, beside scaling and hiding.
enum class Scores { kPlain, kModified, kRelative };

// 16-row products of a warp's rows of queries; a tile has 64 times as many rows. Two share what is read of keys and
// values, and take registers that wide heads and changed scores need.
constexpr int forward_row_products(int width, Scores scores) {
  return width <= 128 && scores == Scores::kPlain ? 2 : 1;
}

// Panels of keys and values that a tile of queries has in shared memory: two cost no block where heads are narrow.
constexpr int key_stages(int width, Scores scores) { return width <= 64 && scores != Scores::kRelative ? 2 : 1; }

// Whether a multiprocessor of the current device has shared memory for so many blocks.
inline bool fit_at_once(int blocks, int64_t bytes) {
  constexpr int64_t reserved = 1 << 10;  // of each
  return bytes <= (device_limits().shared_bytes - (blocks - 1) * reserved) / blocks;
}

constexpr int blocks_at_once(int width, Scores scores) { return width <= 128 && scores != Scores::kRelative ? 2 : 1; }

// Whether a block has registers for the sums of dK and dV at once; otherwise they take a launch each.
constexpr bool both_key_gradients(int width, Scores scores) {
  return width <= 64 || (width <= 128 && scores == Scores::kPlain);
}

inline Scores scores_of(const AttentionProblem& p) {
  if (p.relative_key || p.relative_value) return Scores::kRelative;
  // plain kernels take maxima before they scale
  const bool grows = static_cast<float>(p.scale) > 0.0f;
  return p.modifies_scores() || p.dropout || !grows ? Scores::kModified : Scores::kPlain;
}

// Of queries and values: the wider decides.
constexpr int64_t width_of(const AttentionProblem& p) { return p.dim > p.value_dim ? p.dim : p.value_dim; }

// Calls f with them as a constant.
template <class F>
inline void with_scores(const AttentionProblem& p, F f) {
  switch (scores_of(p)) {
    case Scores::kPlain:
      return f(std::integral_constant<Scores, Scores::kPlain>{});
    case Scores::kModified:
      return f(std::integral_constant<Scores, Scores::kModified>{});
    case Scores::kRelative:
      return f(std::integral_constant<Scores, Scores::kRelative>{});
  }
}

// Calls f with both as constants.
template <class F>
inline void with_scores_and_width(const AttentionProblem& p, F f) {
  with_width(width_of(p), [&](auto width) { with_scores(p, [&](auto scores) { f(width, scores); }); });
}

template <class F>
inline void with_16_bits(DType dtype, F f) {
  dtype == DType::kBFloat16 ? f(BFloat16{}) : f(Float16{});
}

}  // namespace seo_kernels::cuda
