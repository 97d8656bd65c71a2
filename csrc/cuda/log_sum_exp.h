// log(sum(exp(x))) of numbers that come a few at a time: the sum is kept relative to the largest so far.
// Milakov and Gimelshein 2018, "Online normalizer calculation for softmax", algorithm 3.
#pragma once

#include <cmath>

#include "cuda/executor.h"

namespace seo_kernels::cuda {

// e^x
template <class Acc>
SK_DEVICE inline Acc exponential(Acc x) {
  constexpr Acc kLog2E = static_cast<Acc>(1.4426950408889634);
  return std::exp2(x * kLog2E);
}

// What turns scores into probabilities: the log-sum-exp in two parts, since their sum would round off the second where
// scores are large.
template <class Acc>
struct Normaliser {
  Acc largest, log_sum;

  SK_DEVICE Acc surprise(Acc x) const { return (largest - x) + log_sum; }  // -log p
  SK_DEVICE Acc probability(Acc x) const { return exponential(-surprise(x)); }
};

template <class Acc>
SK_DEVICE inline Normaliser<Acc> normaliser_at(const void* lse, int64_t row) {
  const Acc* at = static_cast<const Acc*>(lse) + 2 * row;
  return {at[0], at[1]};
}

template <class Acc>
SK_DEVICE inline void store_normaliser(const Normaliser<Acc>& normaliser, void* lse, int64_t row) {
  Acc* at = static_cast<Acc*>(lse) + 2 * row;
  at[0] = normaliser.largest;
  at[1] = normaliser.log_sum;
}

// What has been seen of a row's scores x, some of them with a factor c each.
template <class Acc>
struct ScoreSums {
  Acc largest = -static_cast<Acc>(INFINITY);
  Acc sum = 0;                    // of exp(x - shift), where shift is the largest, or 0 as long as all are -inf
  Acc factors = 0, weighted = 0;  // of c, and of c (x - shift)

  template <int N>
  SK_DEVICE void add(const Acc (&x)[N]) {
    Acc best = largest;
#pragma unroll
    for (int n = 0; n < N; ++n) best = x[n] > best ? x[n] : best;  // a NaN makes the sum NaN
    if (best > largest) move(best);
    const Acc shift = shift_of(largest);
#pragma unroll
    for (int n = 0; n < N; ++n) sum += exponential(x[n] - shift);
  }

  template <int N>
  SK_DEVICE void add(const Acc (&x)[N], const Acc (&c)[N]) {
    add(x);
    const Acc shift = shift_of(largest);
#pragma unroll
    for (int n = 0; n < N; ++n) {
      factors += c[n];
      weighted += c[n] * (x[n] - shift);
    }
  }

  // Those that another one has seen.
  SK_DEVICE void add(ScoreSums other) {
    const Acc best = other.largest > largest ? other.largest : largest;
    move(best);
    other.move(best);
    sum += other.sum;
    factors += other.factors;
    weighted += other.weighted;
  }

  SK_DEVICE Normaliser<Acc> normaliser() const { return {largest, std::log(sum)}; }
  // sum c (-log p)
  SK_DEVICE Acc weighted_surprise() const { return factors * std::log(sum) - weighted; }

  template <class Shared>
  SK_DEVICE void store(Shared& shared, int n) const {
    shared.largest[n] = largest;
    shared.sum[n] = sum;
    shared.factors[n] = factors;
    shared.weighted[n] = weighted;
  }
  template <class Shared>
  SK_DEVICE static ScoreSums load(Shared& shared, int n) {
    return {shared.largest[n], shared.sum[n], shared.factors[n], shared.weighted[n]};
  }

 private:
  SK_DEVICE static Acc shift_of(Acc largest) { return largest == -static_cast<Acc>(INFINITY) ? Acc(0) : largest; }
  SK_DEVICE void move(Acc best) {
    if (best == largest) return;
    sum *= exponential(largest - best);
    weighted += factors * (shift_of(largest) - best);
    largest = best;
  }
};

template <class Acc, int Threads>
struct SharedScoreSums {
  SharedArray<Acc, Threads> largest, sum, factors, weighted;
};

}  // namespace seo_kernels::cuda
