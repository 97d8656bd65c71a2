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
  constexpr T kDensity = T(0.39894228040143267794);  // 1 / sqrt(2 pi)
  const V a = bounded_magnitude<A>(x, by_precision<A>(15, 40));
  const V square = a * a, square_error = A::kReduced ? V{} : A::product_error(a, a, square);
  const Exponential<A> e = exponential<A>(square * T(-0.5), square_error * T(-0.5));
  const V ratio = normal_tail_ratio<A>(a);
  const V slope = times<A>(ratio - kDensity * a, e);  // of the tail a P(X > a)
  const V curvature = times<A>(((T(2) - square) - square_error) * kDensity, e);
  return {(x <= T(0) ? V{} : x) - times<A>(a * ratio, e), x < T(0) ? slope : T(1) - slope, curvature};
}

// x s(u(x)) with s the logistic function and e = e^-|u|; first and second are u's derivatives.
// `a` is |x|, bounded where the tail is zero.
template <class A>
SK_ALWAYS_INLINE Jet<typename A::Value> gated_jet(typename A::Value x, typename A::Value a, Exponential<A> e,
                                                  typename A::Value first, typename A::Value curvature) {
  using T = typename A::Scalar;
  using V = typename A::Value;
  const V nothing{}, small = number<A>(e), sum = small + T(1), inverse = T(1) / sum;
  const auto negative = x < T(0);
  const V fraction = negative ? e.fraction : nothing, exponent = negative ? e.exponent : nothing;
  const V bounded = negative ? -a : x;
  const V numerator = bounded * fraction + bounded;
  const V inner = (negative ? -a : times<A>(a, e)) * first + sum;
  const V outer = (T(2) - a * first * ((T(1) - small) * inverse)) * first + a * curvature;
  const V square = inverse * inverse;
  return {A::scale(numerator / sum, exponent), A::scale((inner * fraction + inner) * square, exponent),
          times<A>(outer * square, e)};
}

// x s(x): SiLU (Elfwing et al. 2018), Swish.
template <class A>
SK_ALWAYS_INLINE Jet<typename A::Value> silu_jet(typename A::Value x) {
  using V = typename A::Value;
  const V a = bounded_magnitude<A>(x, by_precision<A>(110, 760));
  return gated_jet<A>(x, a, exponential<A>(-a), constant<A>(1), V{});
}

// x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) = x s(u), u = x (p + q x^2) (Hendrycks and Gimpel 2016).
template <class A>
SK_ALWAYS_INLINE Jet<typename A::Value> gelu_tanh_jet(typename A::Value x) {
  using T = typename A::Scalar;
  using V = typename A::Value;
  constexpr double p = 1.5957691216057307117, q = 0.071354816272600248;
  constexpr T p_high = T(p), p_low = T(p - double(T(p))), q_high = T(q), q_low = T(q - double(T(q)));
  const V a = bounded_magnitude<A>(x, by_precision<A>(11.5, 22.5));
  const V square = a * a;
  const V slope = square * T(3 * q) + p_high, curvature = a * T(6 * q);
  if constexpr (A::kReduced) {
    return gated_jet<A>(x, a, exponential<A>(-a * (square * q_high + p_high)), slope, curvature);
  } else {
    // -u to twice the precision, since e^u multiplies an error of u by u: cubic = q x^2, factor = p + cubic
    const V cubic = square * q_high, factor = cubic + p_high;
    const V kept = factor - p_high;  // two-sum: what cubic and p_high lose in factor
    const V cubic_error = A::product_error(square, constant<A>(q_high), cubic) +
                          (A::product_error(a, a, square) * q_high + square * q_low);
    const V factor_error = ((cubic - kept) + (p_high - (factor - kept))) + (cubic_error + p_low);
    const V high = a * factor;
    const V low = A::product_error(a, factor, high) + a * factor_error;
    return gated_jet<A>(x, a, exponential<A>(-high, -low), slope, curvature);
  }
}

// 1 / (1 + e^-x)
template <class A>
SK_ALWAYS_INLINE Jet<typename A::Value> sigmoid_jet(typename A::Value x) {
  using T = typename A::Scalar;
  using V = typename A::Value;
  const V nothing{}, a = bounded_magnitude<A>(x, by_precision<A>(110, 760));
  const Exponential<A> e = exponential<A>(-a);
  const V small = number<A>(e), sum = small + T(1), inverse = T(1) / sum;
  const auto negative = x < T(0);
  const V numerator = (negative ? e.fraction : nothing) + T(1);
  const V change = (T(1) - small) * inverse;
  return {A::scale(numerator / sum, negative ? e.exponent : nothing), times<A>(inverse * inverse, e),
          times<A>((negative ? change : -change) * (inverse * inverse), e)};
}

// (1 - e) / (1 + e) with e = e^-2|x|; a series near zero.
template <class A>
SK_ALWAYS_INLINE Jet<typename A::Value> tanh_jet(typename A::Value x) {
  using T = typename A::Scalar;
  using V = typename A::Value;
  const V a = bounded_magnitude<A>(x, by_precision<A>(60, 400));
  const Exponential<A> e = exponential<A>(a * T(-2));
  const V small = number<A>(e), sum = small + T(1);
  const V square = a * a;
  const V near = (a * square) * tanh_series<A>(square) + a;
  const V far = T(1) - (small + small) / sum;
  const V magnitude = a < T(0.6) ? near : far;
  const V value = x < T(0) ? -magnitude : x == T(0) ? x : magnitude;
  const V inverse = T(1) / sum, first = times<A>(inverse * inverse * T(4), e);
  return {value, first, value * first * T(-2)};
}

// x tanh(log(1 + e^x)) (Misra 2019). With w = e^x and n = w (w + 2), tanh(log(1 + w)) = n / (n + 2); where x > 0 all is
// divided by the power of w that keeps it finite, and e = e^-|x| stands for 1 / w.
template <class A>
SK_ALWAYS_INLINE Jet<typename A::Value> mish_jet(typename A::Value x) {
  using T = typename A::Scalar;
  using V = typename A::Value;
  const V nothing{}, one = constant<A>(1), a = bounded_magnitude<A>(x, by_precision<A>(110, 760));
  const Exponential<A> exp = exponential<A>(-a);
  const V e = number<A>(exp), ee = e * e;
  const auto negative = x < T(0);
  const V bounded = negative ? -a : x, signed_a = negative ? -a : a;
  const V fraction = negative ? exp.fraction : nothing, exponent = negative ? exp.exponent : nothing;
  // n, up to the factor e^x that `fraction` and `exponent` hold where x < 0; and n + 2
  const V n = negative ? e + T(2) : e * T(2) + T(1);
  const V d = negative ? e * n + T(2) : ee * T(2) + n;
  const V inverse = T(1) / d, square = inverse * inverse;
  const V numerator = bounded * fraction + bounded;
  const V inner = n * d + (signed_a * T(4)) * ((negative ? one : ee) * (e + T(1)));
  const V bend = negative ? polynomial<A>(e, 2, 2, -3, -2) : polynomial<A>(e, -2, -3, 2, 2);
  const V outer = ((e + T(1)) * d * T(2) + signed_a * bend) * (square * inverse) * T(4);
  const V once = outer * exp.fraction + outer;
  return {A::scale(numerator * (n / d), exponent), A::scale((inner * fraction + inner) * square, exponent),
          A::scale(negative ? once : once * exp.fraction + once, negative ? exp.exponent : exp.exponent * T(2))};
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
inline decltype(auto) with_activation(Activation which, F f) {
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
