// What the activations are made of, for scalars and vectors alike: exponentials, Mills' ratio, twofold numbers.
//
// Every formula takes an arithmetic A, which says what a number is and does what plain operators can't:
//   A::Scalar, A::Value           float or double; that, or a vector of it
//   A::kReduced                   results are rounded to bfloat16: relative errors of 1e-4 serve, and corrections don't
//   A::magnitude(x)               |x|
//   A::smaller(a, b)              the smaller; b where either is NaN
//   A::product_error(a, b, p)     a * b - p, exactly where p is a * b as rounded
//   A::remainder(c, a, b)         c - a * b, exactly where that is small beside c
//   A::inverse(d)                 1 / d; roughly where reduced
//   A::scale(v, n)                v * 2^n, rounded once, for whole n in [-250, 0] (double: [-2000, 0])
// Values are compared, and chosen by ?:, as scalars are. Coefficients are minimax fits made for this file.
#pragma once

#include <cmath>

#include "semantics/host_device.h"

namespace seo_kernels {

template <class T, bool Reduced = false>
struct ScalarArithmetic {
  using Scalar = T;
  using Value = T;
  static constexpr bool kReduced = Reduced;

  SK_ALWAYS_INLINE T magnitude(T x) { return std::fabs(x); }
  SK_ALWAYS_INLINE T smaller(T a, T b) { return a < b ? a : b; }
  SK_ALWAYS_INLINE T product_error(T a, T b, T product) { return std::fma(a, b, -product); }
  SK_ALWAYS_INLINE T remainder(T c, T a, T b) { return std::fma(-a, b, c); }
  SK_ALWAYS_INLINE T inverse(T d) { return T(1) / d; }
  SK_ALWAYS_INLINE T scale(T value, T exponent) { return std::ldexp(value, static_cast<int>(exponent)); }
};

template <class A>
SK_ALWAYS_INLINE typename A::Value constant(double value) {
  return typename A::Value{} + static_cast<typename A::Scalar>(value);
}

// c0 + c1 x + c2 x^2 + ...
template <class A>
SK_ALWAYS_INLINE typename A::Value polynomial(typename A::Value, double c0) {
  return constant<A>(c0);
}
template <class A, class... Higher>
SK_ALWAYS_INLINE typename A::Value polynomial(typename A::Value x, double c0, Higher... higher) {
  return polynomial<A>(x, higher...) * x + static_cast<typename A::Scalar>(c0);
}

// |x|, but at most `bound`; NaN stays.
template <class A>
SK_ALWAYS_INLINE typename A::Value bounded_magnitude(typename A::Value x, double bound) {
  return A::smaller(constant<A>(bound), A::magnitude(x));
}

template <class A>
SK_ALWAYS_INLINE constexpr double by_precision(double of_float, double of_double) {
  return sizeof(typename A::Scalar) == 4 ? of_float : of_double;
}

// A number as a sum: `low` is below the last place of `high`, and zero in reduced arithmetic.
template <class A>
struct Twofold {
  typename A::Value high, low;
};

// a + b, for |a| >= |b| (Dekker 1971)
template <class A>
SK_ALWAYS_INLINE Twofold<A> ordered_sum(typename A::Value a, typename A::Value b) {
  const typename A::Value high = a + b;
  if constexpr (A::kReduced) return {high, typename A::Value{}};
  return {high, b - (high - a)};
}

// (Knuth 1969)
template <class A>
SK_ALWAYS_INLINE Twofold<A> sum(Twofold<A> a, Twofold<A> b) {
  const typename A::Value high = a.high + b.high;
  if constexpr (A::kReduced) return {high, typename A::Value{}};
  const typename A::Value kept = high - a.high;
  return {high, ((a.high - (high - kept)) + (b.high - kept)) + (a.low + b.low)};
}

template <class A>
SK_ALWAYS_INLINE Twofold<A> product(typename A::Value a, typename A::Value b) {
  const typename A::Value high = a * b;
  if constexpr (A::kReduced) return {high, typename A::Value{}};
  return {high, A::product_error(a, b, high)};
}
template <class A>
SK_ALWAYS_INLINE Twofold<A> product(typename A::Value a, Twofold<A> b) {
  const Twofold<A> p = product<A>(a, b.high);
  if constexpr (A::kReduced) return p;
  return {p.high, a * b.low + p.low};
}
template <class A>
SK_ALWAYS_INLINE Twofold<A> product(Twofold<A> a, Twofold<A> b) {
  const Twofold<A> p = product<A>(a.high, b);
  if constexpr (A::kReduced) return p;
  return {p.high, a.low * b.high + p.low};
}

template <class A>
SK_ALWAYS_INLINE Twofold<A> twofold_constant(double x) {
  using T = typename A::Scalar;
  return {constant<A>(x), A::kReduced ? typename A::Value{} : constant<A>(x - double(T(x)))};
}

// a * b + c with c = a constant of few digits, so that sum - c is exact
template <class A>
SK_ALWAYS_INLINE Twofold<A> product_sum(typename A::Value a, typename A::Value b, double c) {
  using T = typename A::Scalar;
  const typename A::Value high = a * b + T(c);
  if constexpr (A::kReduced) return {high, typename A::Value{}};
  return {high, A::product_error(a, b, high - T(c))};
}

// 1 / d = value * (1 + excess)
template <class A>
struct Reciprocal {
  typename A::Value value, excess;
};

template <class A>
SK_ALWAYS_INLINE Reciprocal<A> reciprocal(Twofold<A> d) {
  const typename A::Value value = A::inverse(d.high);
  if constexpr (A::kReduced) return {value, typename A::Value{}};
  return {value, A::remainder(constant<A>(1), d.high, value) - d.low * value};
}

template <class A>
SK_ALWAYS_INLINE Twofold<A> twofold(Reciprocal<A> r) {
  return {r.value, r.value * r.excess};
}

template <class A>
SK_ALWAYS_INLINE Twofold<A> square(Reciprocal<A> r) {
  const Twofold<A> p = product<A>(r.value, r.value);
  if constexpr (A::kReduced) return p;
  return {p.high, p.high * (r.excess + r.excess) + p.low};
}

template <class A>
SK_ALWAYS_INLINE Twofold<A> product(typename A::Value a, Reciprocal<A> b) {
  const Twofold<A> p = product<A>(a, b.value);
  if constexpr (A::kReduced) return p;
  return {p.high, p.high * b.excess + p.low};
}

// e^x = (1 + fraction) * 2^exponent, fraction in [-0.3, 0.42], exponent whole. In parts, because a product with e^x is
// then rounded once, and is right where e^x itself underflows.
template <class A>
struct Exponential {
  typename A::Value fraction, exponent;
};

// Of x + x_low, where x is in [-2^21, 1]. Relative error of 1 + fraction: 3e-9 (float), 4e-18 (double), 3e-6 (reduced),
// besides the rounding of fraction.
template <class A, bool Low = true>
SK_ALWAYS_INLINE Exponential<A> exponential(typename A::Value x, typename A::Value x_low) {
  using T = typename A::Scalar;
  using V = typename A::Value;
  constexpr T kLog2E = T(1.4426950408889634074);
  constexpr T kRounder = sizeof(T) == 4 ? T(12582912.0) : T(6755399441055744.0);  // 1.5 * 2^23, 1.5 * 2^52
  const V exponent = (x * kLog2E + kRounder) - kRounder;
  if constexpr (A::kReduced) {
    const V f = x * kLog2E - exponent;  // |f| <= 1/2: 2^f - 1
    return {f * polynomial<A>(f, 0.6931242381111140694, 0.24024101403269845121, 0.055906207859515925036,
                              0.0095827160515348507825),
            exponent};
  } else {
    // ln 2 in two parts: products with the first are exact
    constexpr T kLn2High = sizeof(T) == 4 ? T(0.693145751953125) : T(0.693147180369123816490);
    constexpr T kLn2Low = sizeof(T) == 4 ? T(1.42860682030941723212e-6) : T(1.90821492927058770002e-10);
    const V rest = x - exponent * kLn2High;
    V f, tail;  // |f| <= ln(2) / 2
    if constexpr (Low) {
      f = rest + (x_low - exponent * kLn2Low);
    } else {
      f = rest - exponent * kLn2Low;
    }
    if constexpr (sizeof(T) == 4) {
      tail = polynomial<A>(f, 0.49999993412400646611, 0.1666652010818768854, 0.041668394234716789507,
                           0.0083687803782311407906, 0.0013814465753889894606);
    } else {
      tail = polynomial<A>(f, 0.50000000000000107201, 0.16666666666666410229, 0.041666666666529193969,
                           0.0083333333334956280791, 0.0013888888943921476717, 0.00019841269504754752219,
                           0.000024801492763830049157, 2.755758735277528448e-6, 2.7630378295013823186e-7,
                           2.499996169299861491e-8);
    }
    return {f * f * tail + f, exponent};
  }
}

template <class A>
SK_ALWAYS_INLINE Exponential<A> exponential(typename A::Value x) {
  return exponential<A, false>(x, x);
}

template <class A>
SK_ALWAYS_INLINE typename A::Value number(Exponential<A> e) {
  return A::scale(e.fraction + typename A::Scalar(1), e.exponent);
}

// x * (1 + growth), rounded once; |growth| < 1/2.
template <class A>
SK_ALWAYS_INLINE typename A::Value grown(Twofold<A> x, typename A::Value growth) {
  if constexpr (A::kReduced) return x.high * growth + x.high;
  return (x.high * growth + (x.low * growth + x.low)) + x.high;
}

template <class A>
SK_ALWAYS_INLINE typename A::Value grown(Reciprocal<A> x, typename A::Value growth) {
  if constexpr (A::kReduced) return x.value * growth + x.value;
  return x.value * (growth + (x.excess * growth + x.excess)) + x.value;
}

// The upper tail of the normal distribution over e^(-a^2/2) (Mills' ratio over sqrt(2 pi)), for a in [0, 15], double:
// [0, 40]. A rational function p / q whose coefficients are all positive; q = (2 + 4 a / sqrt(2 pi)) p + a^2 s takes
// p as rounded, so that most of p's rounding cancels. Relative error 1e-8 (float), 2e-18 (double), 3e-5 (reduced).
template <class A>
SK_ALWAYS_INLINE Twofold<A> normal_tail_ratio(typename A::Value a, typename A::Value square) {
  using T = typename A::Scalar;
  using V = typename A::Value;
  if constexpr (A::kReduced) {
    const V q = polynomial<A>(a, 1.0, 1.3580457913326243969, 0.7059084592555934636, 0.15806873739923251017);
    return {polynomial<A>(a, 0.50001284491407674947, 0.27968426476420641811, 0.063125090783156467065) * A::inverse(q),
            V{}};
  } else {
    V p, s;
    if constexpr (sizeof(T) == 4) {
      p = polynomial<A>(a, 0.5, 0.435675245567, 0.18116587484, 0.0398985173406, 0.00399653753179);
      s = polynomial<A>(a, 0.136618106533, 0.0950798347074, 0.0283556443779, 0.00364015686793);
    } else {
      p = polynomial<A>(a, 0.5, 0.82781034770673319173, 0.67941139535278649248, 0.35717874933210947871,
                        0.1319578631620916489, 0.03563525223156261424, 0.0071142584837743709821,
                        0.0010380729248625974943, 0.0001063540432394503746, 6.9573069664240520534e-6,
                        2.2338616027881558422e-7);
      s = polynomial<A>(a, 0.13661977236757759518, 0.20221656947319598043, 0.14571854511069413115,
                        0.066229736692169298314, 0.02079736316542386581, 0.0046694117581477240826,
                        0.00075026952119564097421, 0.000083518885875518041576, 5.8903544102446526207e-6,
                        2.0347332874900802395e-7);
    }
    constexpr T kSlope = T(1.59576912160573071176);
    const Twofold<A> line = product_sum<A>(a, constant<A>(kSlope), 2);
    const V rest = square * s + p * line.low;
    const V most = p * line.high;
    Twofold<A> q = ordered_sum<A>(most, rest);
    q.low = q.low + A::product_error(p, line.high, most);
    return product<A>(p, reciprocal<A>(q));
  }
}

// tanh(x) / x - 1 over x^2 as a function of x^2, for |x| <= 0.6. Relative error of tanh: 9e-11 (float), 5e-21 (double).
template <class A>
SK_ALWAYS_INLINE typename A::Value tanh_series(typename A::Value square) {
  if constexpr (sizeof(typename A::Scalar) == 4) {
    return polynomial<A>(square, -0.33333331720844894406, 0.1333324537306974915, -0.053952167173824842706,
                         0.021732722340303231523, -0.0082627476792279355054, 0.0022269768220013072825);
  } else {
    return polynomial<A>(square, -0.33333333333333333007, 0.13333333333333261564, -0.053968253968198625862,
                         0.021869488534002226916, -0.0088632354804021259963, 0.0035921273034639763714,
                         -0.0014558270288941059835, 0.00058997589494474551875, -0.00023887349259726101481,
                         0.00009601704946206308659, -0.000037068854494646915125, 0.000012224008045071703666,
                         -2.455451812503680635e-6);
  }
}

}  // namespace seo_kernels
