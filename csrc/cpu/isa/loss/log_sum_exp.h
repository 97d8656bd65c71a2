// log(sum(exp(x))) of numbers that come block by block: the sum is kept relative to the largest so far.
// Milakov and Gimelshein 2018, "Online normalizer calculation for softmax", algorithm 3.
#pragma once

#include <cmath>
#include <limits>

#include "cpu/isa/loss/row_blocks.h"
#include "cpu/isa/vector_math.h"

namespace seo_kernels::cpu {
namespace {

template <class Acc>
inline Acc block_max(const Acc* x, int64_t count) {
  constexpr int64_t W = kLanes<Acc>;
  constexpr Acc lowest = -std::numeric_limits<Acc>::infinity();
  Vec<Acc> best[4] = {splat(lowest), splat(lowest), splat(lowest), splat(lowest)};
  int64_t n = 0;
  for (; n + 4 * W <= count; n += 4 * W) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) best[i] = vmax(load(x + n + i * W), best[i]);
  }
  for (; n + W <= count; n += W) best[0] = vmax(load(x + n), best[0]);
  if (n < count) best[1] = vmax(load_first(x + n, count - n, lowest), best[1]);
  return reduce_max<Acc>(vmax(vmax(best[0], best[1]), vmax(best[2], best[3])));
}

// What turns scores into probabilities: the log-sum-exp in two parts, since their sum would round off the second where
// scores are large.
template <class Acc>
struct Normaliser {
  Acc largest, log_sum;

  // -log p
  Acc surprise(Acc x) const { return (largest - x) + log_sum; }
  Vec<Acc> surprise(Vec<Acc> x) const { return (splat(largest) - x) + splat(log_sum); }
  template <bool Reduced = false>
  Vec<Acc> probability(Vec<Acc> x) const {
    return exp2<Acc, Reduced>(surprise(x) * splat(static_cast<Acc>(-kLog2E)));
  }
};

template <class Acc>
inline Normaliser<Acc> normaliser_at(const void* lse, int64_t row) {
  const Acc* at = static_cast<const Acc*>(lse) + 2 * row;
  return {at[0], at[1]};
}

template <class Acc>
inline void store_normaliser(const Normaliser<Acc>& normaliser, void* lse, int64_t row) {
  Acc* at = static_cast<Acc*>(lse) + 2 * row;
  at[0] = normaliser.largest;
  at[1] = normaliser.log_sum;
}

template <class Acc>
struct LogSumExp {
  Acc largest = -std::numeric_limits<Acc>::infinity();
  Acc sum = 0;  // of exp(x - largest)

  void add(const Acc* x, int64_t count) {
    const Acc best = block_max(x, count);
    if (best > largest) {
      sum *= std::exp(largest - best);
      largest = best;
    }
    // As long as all are -inf, any finite shift gives zeros. A NaN, or an infinity, makes the sum NaN.
    const Vec<Acc> shift = splat(largest == -std::numeric_limits<Acc>::infinity() ? Acc(0) : largest);
    sum += sum_vectors(count, [&](Vec<Acc> v) { return exp2<Acc>((v - shift) * splat(static_cast<Acc>(kLog2E))); }, x);
  }

  // The numbers that another one has seen.
  void add(const LogSumExp& other) {
    const Acc best = other.largest > largest ? other.largest : largest;
    if (best != -std::numeric_limits<Acc>::infinity()) {
      sum = sum * std::exp(largest - best) + other.sum * std::exp(other.largest - best);
    } else {
      sum += other.sum;
    }
    largest = best;
  }

  Normaliser<Acc> normaliser() const { return {largest, std::log(sum)}; }
};

}  // namespace
}  // namespace seo_kernels::cpu
