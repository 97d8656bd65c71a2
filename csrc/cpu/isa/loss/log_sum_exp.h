// log(sum(exp(x))) of numbers that come block by block: the sum is kept relative to the largest so far.
// Milakov and Gimelshein 2018, "Online normalizer calculation for softmax", algorithm 3.
#pragma once

#include <cmath>
#include <limits>

#include "cpu/isa/loss/row_blocks.h"
#include "cpu/isa/vector_math.h"

namespace seo_kernels::cpu {
namespace {

// exp(x - shift)
template <class Acc>
inline __attribute__((always_inline)) Vec<Acc> exp_from(Vec<Acc> x, Vec<Acc> shift) {
  return exp2<Acc>((x - shift) * splat<Acc>(static_cast<Acc>(kLog2E)));
}

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
    sum += sum_vectors(count, [&](Vec<Acc> v) { return exp_from<Acc>(v, shift); }, x);
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

  Acc value() const { return largest + std::log(sum); }
};

}  // namespace
}  // namespace seo_kernels::cpu
