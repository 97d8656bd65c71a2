// Activations from tables, where looking up is cheaper than the formula: gelu, gelu_tanh and silu in AVX-512.
//
// These have f(x) - f(-x) = x, so that all of f is in its tail T(a) = -f(-a), a >= 0:
//   f(x) = max(x, 0) - T(|x|),    f'(x) = T'(|x|) where x < 0, else 1 - T'(|x|)
// T and T' are polynomials on each of 32 intervals, which follow each other up to a bound; they are fitted to the
// formula of semantics/activation.h in double precision when the table is first asked for.
#pragma once

#include <algorithm>
#include <cmath>

#include "cpu/isa/activation/vector_activation.h"

namespace seo_kernels::cpu {
namespace {

constexpr bool has_tail_table(Activation which) {
  return which == Activation::kGelu || which == Activation::kGeluTanh || which == Activation::kSilu;
}

#if defined(__AVX512F__)

// |x| is in the interval whose number is |x| (linear + quadratic |x|), rounded: the intervals are so small that degree
// 5 leaves an error of 3e-8 of T or T'; degree 3, where results are rounded to bfloat16, 6e-5.
struct Spacing {
  double linear, quadratic;

  double number(double a) const { return a * (linear + quadratic * a); }
  double at(double number) const { return 2 * number / (linear + std::sqrt(linear * linear + 4 * quadratic * number)); }
};

constexpr Spacing spacing_of(Activation which) {
  if (which == Activation::kGelu) return {4, 0.475};
  return which == Activation::kGeluTanh ? Spacing{4, 0.65} : Spacing{4, -0.1};
}

template <Activation Which, bool Reduced>
class TailTable {
 public:
  static constexpr int kIntervals = 32, kDegree = Reduced ? 3 : 5;

  static const TailTable& get() {
    static const TailTable table;
    return table;
  }

  // From here on, and for NaN, the formula serves.
  float bound() const { return bound_; }

  // A vector's intervals, and how far it is from their centres.
  struct Place {
    __m512i index;
    Vec<float> distance;
  };

  inline __attribute__((always_inline)) Place place(Vec<float> a) const {
    constexpr float kRounder = 12582912.0f;  // 1.5 * 2^23: the number is in the last bits of the sum
    constexpr Spacing spacing = spacing_of(Which);
    const __m512i index = (__m512i)(a * (a * float(spacing.quadratic) + float(spacing.linear)) + kRounder);
    return {index, a - lookup(centre_, index)};
  }

  inline __attribute__((always_inline)) Vec<float> tail(const Place& place) const { return evaluate(tail_, place); }
  inline __attribute__((always_inline)) Vec<float> slope(const Place& place) const { return evaluate(slope_, place); }

 private:
  using Row = float[kIntervals];

  static inline __attribute__((always_inline)) Vec<float> lookup(const Row& table, __m512i index) {
    return (Vec<float>)_mm512_permutex2var_ps(_mm512_load_ps(table), index, _mm512_load_ps(table + 16));
  }

  static inline __attribute__((always_inline)) Vec<float> evaluate(const Row (&table)[kDegree + 1],
                                                                   const Place& place) {
    Vec<float> result = lookup(table[kDegree], place.index);
#pragma GCC unroll 8
    for (int n = kDegree - 1; n >= 0; --n) result = result * place.distance + lookup(table[n], place.index);
    return result;
  }

  // Writes column k of `to`: the polynomial in a - centre that is f at the Chebyshev points of [begin, end]; times
  // a - centre if `odd`.
  template <class F>
  static void fit(F f, double begin, double end, double centre, bool odd, Row (&to)[kDegree + 1], int k) {
    const int points = odd ? kDegree : kDegree + 1;
    double x[kDegree + 1], divided[kDegree + 1], sum[kDegree + 1] = {};
    for (int n = 0; n < points; ++n) {
      const double a = (begin + end) / 2 + (end - begin) / 2 * std::cos(M_PI * (n + 0.5) / points);
      x[n] = a - centre;
      divided[n] = odd ? f(a) / x[n] : f(a);
    }
    for (int order = 1; order < points; ++order) {
      for (int n = points - 1; n >= order; --n) divided[n] = (divided[n] - divided[n - 1]) / (x[n] - x[n - order]);
    }
    for (int n = points - 1; n >= 0; --n) {  // sum = sum (a - x[n]) + divided[n]
      for (int power = points - 1; power > 0; --power) sum[power] = sum[power - 1] - x[n] * sum[power];
      sum[0] = divided[n] - x[n] * sum[0];
    }
    for (int power = 0; power <= kDegree; ++power) {
      to[power][k] = static_cast<float>(odd ? (power > 0 ? sum[power - 1] : 0.0) : sum[power]);
    }
  }

  TailTable() {
    using A = ScalarArithmetic<double>;
    constexpr Spacing spacing = spacing_of(Which);
    const auto tail = [](double a) { return -jet<Which, A>(-a, 0).value; };
    const auto slope = [](double a) { return jet<Which, A>(-a, 0).first; };
    for (int k = 0; k < kIntervals; ++k) {
      const double begin = spacing.at(std::max(k - 0.5, 0.0)), end = spacing.at(k + 0.5);
      centre_[k] = static_cast<float>(spacing.at(k));
      fit(tail, begin, end, centre_[k], k == 0, tail_, k);  // the first keeps T's zero
      fit(slope, begin, end, centre_[k], false, slope_, k);
    }
    bound_ = static_cast<float>(spacing.at(kIntervals - 0.5) * (1 - 1e-6));
  }

  alignas(64) Row centre_, tail_[kDegree + 1], slope_[kDegree + 1];
  float bound_;
};

#endif

}  // namespace
}  // namespace seo_kernels::cpu
