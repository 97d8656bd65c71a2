// The activations: value, first and second derivative of each from one formula, for scalars and vectors.
//
//   jet<Activation::kGelu, A>(x, negative_slope).value       (.first, .second)
//
// What the caller does not use is not computed: everything is inlined. Limits are taken at infinity (gelu, silu and
// mish of -inf are -0), and NaN gives NaN. Formulas are in e^-|x| or e^(-x^2/2), so nothing overflows; the factor that
// may underflow is applied last.
#pragma once

#include <cstdint>
#include <type_traits>

#include "semantics/elementary.h"

namespace seo_kernels {

enum class Activation : int32_t { kGelu, kGeluTanh, kRelu, kSilu, kLeakyRelu, kRelu2, kMish, kTanh, kSigmoid };

constexpr int kActivations = 9;
constexpr const char* kActivationNames[kActivations] = {"gelu",  "gelu_tanh", "relu", "silu",   "leaky_relu",
                                                        "relu2", "mish",      "tanh", "sigmoid"};

template <class V>
struct Jet {
  V value, first, second;
};

// x P(X < x) for a standard normal X (Hendrycks and Gimpel 2016): x P = max(x, 0) - |x| P(X > |x|).
template <class A>
SK_ALWAYS_INLINE Jet<typename A::Value> gelu_jet(typename A::Value x) {
  using T = typename A::Scalar;
  using V = typename A::Value;
  const Twofold<A> density = twofold_constant<A>(0.39894228040143267794);  // 1 / sqrt(2 pi)
  const V a = bounded_magnitude<A>(x, by_precision<A>(15, 40));
  const Twofold<A> square = product<A>(a, a);
  const Exponential<A> e = exponential<A>(square.high * T(-0.5), square.low * T(-0.5));
  const Twofold<A> ratio = normal_tail_ratio<A>(a, square.high);
  const V tail = A::scale(grown<A>(product<A>(a, ratio), e.fraction), e.exponent);
  // of the tail: P(X > a) - a phi(a)
  const Twofold<A> change{ratio.high - a * density.high, A::kReduced ? V{} : ratio.low - a * density.low};
  const V slope = A::scale(grown<A>(change, e.fraction), e.exponent);
  const Twofold<A> bend = product<A>({T(2) - square.high, -square.low}, density);
  return {(x < T(0) ? -V{} : x) - tail, x < T(0) ? slope : T(1) - slope,
          A::scale(grown<A>(bend, e.fraction), e.exponent)};
}

// The logistic function s(x) = 1 / (1 + e^-x) for a >= 0, of e^-a.
template <class A>
struct Logistic {
  Exponential<A> e;
  typename A::Value small;  // e^-a as a number
  Twofold<A> sum;           // 1 + e^-a
  Reciprocal<A> head;       // s(a)
};

template <class A>
SK_ALWAYS_INLINE Logistic<A> logistic(Exponential<A> e) {
  const typename A::Value small = number<A>(e);
  const Twofold<A> sum = ordered_sum<A>(constant<A>(1), small);
  return {e, small, sum, reciprocal<A>(sum)};
}

// s(-a) over 2^exponent
template <class A>
SK_ALWAYS_INLINE typename A::Value tail_mantissa(Logistic<A> s) {
  return grown<A>(s.head, s.e.fraction);
}

// s(a) - s(-a)
template <class A>
SK_ALWAYS_INLINE Twofold<A> logistic_change(Logistic<A> s) {
  return product<A>(ordered_sum<A>(constant<A>(1), -s.small), twofold<A>(s.head));
}

// factor * s'(a) over 2^exponent, rounded once
template <class A>
SK_ALWAYS_INLINE typename A::Value times_slope(Twofold<A> factor, Logistic<A> s) {
  return grown<A>(product<A>(factor, square<A>(s.head)), s.e.fraction);
}

// x s(u(x)) with s the logistic function of e^-|u|, where u is odd. `a` is |x|, bounded where the tail vanishes;
// `first` and `second` are the derivatives of u at a, `rise` is a * first.
template <class A>
SK_ALWAYS_INLINE Jet<typename A::Value> gated_jet(typename A::Value x, typename A::Value a, Logistic<A> s,
                                                  Twofold<A> rise, Twofold<A> first, Twofold<A> second) {
  using T = typename A::Scalar;
  using V = typename A::Value;
  const auto negative = x < T(0);
  const V nothing{}, fraction = negative ? s.e.fraction : nothing, exponent = negative ? s.e.exponent : nothing;
  const V value = (negative ? -a : x) * grown<A>(s.head, fraction);
  // s(u) (1 + x u' s(-u)) = (1 + e + rise e) / (1 + e)^2, where x < 0 (1 + e - rise) e / (1 + e)^2
  const V factor = negative ? constant<A>(-1) : s.small;
  Twofold<A> numerator{factor * rise.high + s.sum.high, nothing};
  if constexpr (!A::kReduced) numerator.low = factor * rise.low + s.sum.low;
  const V slope = grown<A>(product<A>(numerator, square<A>(s.head)), fraction);
  const Twofold<A> bend = product<A>(product<A>(rise, first), logistic_change<A>(s));
  const Twofold<A> twice = sum<A>({first.high * T(2), first.low * T(2)}, product<A>(a, second));
  const V curvature = times_slope<A>(sum<A>(twice, {-bend.high, -bend.low}), s);
  return {A::scale(value, exponent), A::scale(slope, exponent), A::scale(curvature, s.e.exponent)};
}

// x s(x): SiLU (Elfwing et al. 2018), Swish.
template <class A>
SK_ALWAYS_INLINE Jet<typename A::Value> silu_jet(typename A::Value x) {
  using V = typename A::Value;
  const V nothing{}, a = bounded_magnitude<A>(x, by_precision<A>(110, 760));
  return gated_jet<A>(x, a, logistic<A>(exponential<A>(-a)), {a, nothing}, {constant<A>(1), nothing},
                      {nothing, nothing});
}

// c square + 2 sqrt(2 / pi) to twice the precision
template <class A>
SK_ALWAYS_INLINE Twofold<A> gelu_tanh_quadratic(Twofold<A> square, double c) {
  using T = typename A::Scalar;
  constexpr double p = 1.5957691216057307117, digits = by_precision<A>(1 << 16, int64_t{1} << 36);
  constexpr double p_high = static_cast<double>(static_cast<int64_t>(p * digits)) / digits;
  if constexpr (A::kReduced) return {square.high * T(c) + T(p), typename A::Value{}};
  const Twofold<A> most = product_sum<A>(square.high, constant<A>(c), p_high);
  const double c_low = c - double(T(c));
  return {most.high, most.low + (square.high * T(c_low) + (square.low * T(c) + T(p - p_high)))};
}

// x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) = x s(u), u = x (p + q x^2) (Hendrycks and Gimpel 2016).
template <class A>
SK_ALWAYS_INLINE Jet<typename A::Value> gelu_tanh_jet(typename A::Value x) {
  using V = typename A::Value;
  constexpr double q = 0.071354816272600248;
  const V a = bounded_magnitude<A>(x, by_precision<A>(11.5, 22.5));
  const Twofold<A> square = product<A>(a, a);
  // all of u, since e^u multiplies an error of u by u
  const Twofold<A> u = product<A>(a, gelu_tanh_quadratic<A>(square, q));
  const Twofold<A> first = gelu_tanh_quadratic<A>(square, 3 * q);
  return gated_jet<A>(x, a, logistic<A>(exponential<A>(-u.high, -u.low)), product<A>(a, first), first,
                      product<A>(a, twofold_constant<A>(6 * q)));
}

// 1 / (1 + e^-x)
template <class A>
SK_ALWAYS_INLINE Jet<typename A::Value> sigmoid_jet(typename A::Value x) {
  using T = typename A::Scalar;
  using V = typename A::Value;
  const V a = bounded_magnitude<A>(x, by_precision<A>(110, 760));
  const Logistic<A> s = logistic<A>(exponential<A>(-a));
  const auto negative = x < T(0);
  const V nothing{}, fraction = negative ? s.e.fraction : nothing, exponent = negative ? s.e.exponent : nothing;
  const Twofold<A> one{constant<A>(1), nothing}, change = logistic_change<A>(s);
  return {A::scale(grown<A>(s.head, fraction), exponent), A::scale(times_slope<A>(one, s), s.e.exponent),
          A::scale(times_slope<A>({negative ? change.high : -change.high, negative ? change.low : -change.low}, s),
                   s.e.exponent)};
}

// 1 - 2 s(-2x) with the logistic function s; a series near zero.
template <class A>
SK_ALWAYS_INLINE Jet<typename A::Value> tanh_jet(typename A::Value x) {
  using T = typename A::Scalar;
  using V = typename A::Value;
  const V a = bounded_magnitude<A>(x, by_precision<A>(60, 400));
  const Logistic<A> s = logistic<A>(exponential<A>(a * T(-2)));
  const V square = a * a;
  const Twofold<A> near = ordered_sum<A>(a, (a * square) * tanh_series<A>(square));
  const Twofold<A> far = ordered_sum<A>(constant<A>(1), A::scale(tail_mantissa<A>(s) * T(-2), s.e.exponent));
  const auto is_near = a < T(0.6);
  const Twofold<A> magnitude{is_near ? near.high : far.high, is_near ? near.low : far.low};
  const V second = A::scale(times_slope<A>({magnitude.high * T(-8), magnitude.low * T(-8)}, s), s.e.exponent);
  const auto negative = x < T(0);
  return {negative ? -magnitude.high : (x == T(0) ? x : magnitude.high),  // the zero's sign stays
          A::scale(times_slope<A>({constant<A>(4), V{}}, s), s.e.exponent), negative ? -second : second};
}

// x t with t = tanh(log(1 + e^x)) (Misra 2019). With w = e^x and n = w (w + 2), t = n / (n + 2); where x > 0, both are
// divided by w^2, and e = e^-|x| stands for 1 / w. Where x < 0, n is without its factor w, which is applied last.
template <class A>
SK_ALWAYS_INLINE Jet<typename A::Value> mish_jet(typename A::Value x) {
  using T = typename A::Scalar;
  using V = typename A::Value;
  const V one = constant<A>(1), a = bounded_magnitude<A>(x, by_precision<A>(110, 760));
  const Exponential<A> exp = exponential<A>(-a);
  const V e = number<A>(exp);
  const auto negative = x < T(0);
  const V bounded = negative ? -a : x, signed_a = negative ? -a : a;
  const V fraction = negative ? exp.fraction : V{}, exponent = negative ? exp.exponent : V{};
  const Twofold<A> n = ordered_sum<A>(negative ? one + one : one, negative ? e : e + e);
  // d = n + 2
  const Twofold<A> factor{negative ? n.high : e + e, negative ? n.low : V{}};
  const Twofold<A> rest{negative ? one + one : n.high, negative ? V{} : n.low};
  const Twofold<A> d = sum<A>(rest, product<A>(e, factor));
  const Twofold<A> inverse = twofold<A>(reciprocal<A>(d)), square = product<A>(inverse, inverse);
  const Twofold<A> t = product<A>(n, inverse);
  // t' = 4 (1 + e) w / d^2, times w where x > 0
  const Twofold<A> one_e = ordered_sum<A>(one, e), step = product<A>(one_e, square);
  const Twofold<A> rise = product<A>(signed_a * (negative ? one : e * e) * T(4), step);
  const Twofold<A> bend = ordered_sum<A>(negative ? one + one : -one - one,
                                         e * (negative ? polynomial<A>(e, 2, -3, -2) : polynomial<A>(e, -3, 2, 2)));
  const Twofold<A> outer = sum<A>(product<A>(signed_a, bend), product<A>(one + one, product<A>(one_e, d)));
  const V squared = exp.fraction * exp.fraction + exp.fraction * T(2);  // (1 + fraction)^2 - 1
  const V second = grown<A>(product<A>(outer, product<A>(square, inverse)), negative ? exp.fraction : squared);
  const V twice_exponent = exp.exponent * T(2),
          least = constant<A>(by_precision<A>(-240, -2000));  // that `scale` takes
  return {A::scale(bounded * grown<A>(t, fraction), exponent), A::scale(grown<A>(sum<A>(t, rise), fraction), exponent),
          A::scale(second * T(4), negative ? exp.exponent : (twice_exponent < least ? least : twice_exponent))};
}

// A's value and derivatives at x. Where a derivative jumps it is the one from the left. `negative_slope` is
// leaky_relu's.
template <Activation Which, class A>
SK_ALWAYS_INLINE Jet<typename A::Value> jet(typename A::Value x, typename A::Scalar negative_slope) {
  using T = typename A::Scalar;
  using V = typename A::Value;
  const V nothing{}, one = constant<A>(1);
  if constexpr (Which == Activation::kGelu) return gelu_jet<A>(x);
  if constexpr (Which == Activation::kGeluTanh) return gelu_tanh_jet<A>(x);
  if constexpr (Which == Activation::kSilu) return silu_jet<A>(x);
  if constexpr (Which == Activation::kMish) return mish_jet<A>(x);
  if constexpr (Which == Activation::kTanh) return tanh_jet<A>(x);
  if constexpr (Which == Activation::kSigmoid) return sigmoid_jet<A>(x);
  if constexpr (Which == Activation::kRelu) return {x <= T(0) ? nothing : x, x <= T(0) ? nothing : one, nothing};
  if constexpr (Which == Activation::kLeakyRelu) {
    return {x > T(0) ? x : x * negative_slope, x > T(0) ? one : nothing + negative_slope, nothing};
  }
  if constexpr (Which == Activation::kRelu2) {
    const V positive = x <= T(0) ? nothing : x;
    return {positive * positive, positive + positive, x <= T(0) ? nothing : one + one};
  }
}

// Calls f with the activation as a compile-time constant: f(std::integral_constant<Activation, ...>).
template <class F>
SK_ALWAYS_INLINE decltype(auto) with_activation(Activation which, F f) {
  const auto call = [&](auto constant) { return f(constant); };
  switch (which) {
    case Activation::kGelu:
      return call(std::integral_constant<Activation, Activation::kGelu>{});
    case Activation::kGeluTanh:
      return call(std::integral_constant<Activation, Activation::kGeluTanh>{});
    case Activation::kRelu:
      return call(std::integral_constant<Activation, Activation::kRelu>{});
    case Activation::kSilu:
      return call(std::integral_constant<Activation, Activation::kSilu>{});
    case Activation::kLeakyRelu:
      return call(std::integral_constant<Activation, Activation::kLeakyRelu>{});
    case Activation::kRelu2:
      return call(std::integral_constant<Activation, Activation::kRelu2>{});
    case Activation::kMish:
      return call(std::integral_constant<Activation, Activation::kMish>{});
    case Activation::kTanh:
      return call(std::integral_constant<Activation, Activation::kTanh>{});
    default:
      return call(std::integral_constant<Activation, Activation::kSigmoid>{});
  }
}

}  // namespace seo_kernels
