// What the activations are made of, for scalars and vectors alike: exponentials, Mills' ratio, polynomials.
//
// Every formula takes an arithmetic A, which says what a number is and does what plain operators can't:
//   A::Scalar, A::Value           float or double; that, or a vector of it
//   A::kReduced                   whether results are rounded to bfloat16: fits of relative error 3e-5 serve
//   A::product_error(a, b, p)     a * b - p exactly, where p is a * b as rounded
//   A::scale(v, n)                v * 2^n, rounded once, for whole n <= 0
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

  SK_ALWAYS_INLINE T product_error(T a, T b, T product) { return std::fma(a, b, -product); }
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
  using T = typename A::Scalar;
  const typename A::Value magnitude = x < T(0) ? -x : x, most = constant<A>(bound);
  return most < magnitude ? most : magnitude;
}

// A small float and a large one: the choice is by A::Scalar.
template <class A>
SK_ALWAYS_INLINE constexpr double by_precision(double of_float, double of_double) {
  return sizeof(typename A::Scalar) == 4 ? of_float : of_double;
}

// e^x = (1 + fraction) * 2^exponent, fraction in [-0.3, 0.42], exponent whole. In parts, because a product with e^x is
// then rounded once, and is right where e^x itself underflows.
template <class A>
struct Exponential {
  typename A::Value fraction, exponent;
};

// Of high + low, where high is in [-2^21, 1] and low is below the last place of high. Relative error of 1 + fraction:
// 3e-9 (float), 4e-18 (double), 3e-6 (reduced), and that of its rounding.
template <class A>
SK_ALWAYS_INLINE Exponential<A> exponential(typename A::Value high, typename A::Value low) {
  using T = typename A::Scalar;
  using V = typename A::Value;
  constexpr T kLog2E = T(1.4426950408889634074);
  constexpr T kRounder = sizeof(T) == 4 ? T(12582912.0) : T(6755399441055744.0);  // 1.5 * 2^23, 1.5 * 2^52
  const V exponent = (high * kLog2E + kRounder) - kRounder;
  if constexpr (A::kReduced) {
    const V f = high * kLog2E - exponent;  // |f| <= 1/2: 2^f - 1
    return {f * polynomial<A>(f, 0.6931242381111140694, 0.24024101403269845121, 0.055906207859515925036,
                              0.0095827160515348507825),
            exponent};
  } else {
    // ln 2 in two parts: the products with the first are exact
    constexpr T kLn2High = sizeof(T) == 4 ? T(0.693145751953125) : T(0.693147180369123816490);
    constexpr T kLn2Low = sizeof(T) == 4 ? T(1.42860682030941723212e-6) : T(1.90821492927058770002e-10);
    const V f = (high - exponent * kLn2High) + (low - exponent * kLn2Low);  // |f| <= ln(2) / 2: e^f - 1
    if constexpr (sizeof(T) == 4) {
      const V tail = polynomial<A>(f, 0.49999993412400646611, 0.1666652010818768854, 0.041668394234716789507,
                                   0.0083687803782311407906, 0.0013814465753889894606);
      return {f * f * tail + f, exponent};
    } else {
      const V tail = polynomial<A>(f, 0.50000000000000107201, 0.16666666666666410229, 0.041666666666529193969,
                                   0.0083333333334956280791, 0.0013888888943921476717, 0.00019841269504754752219,
                                   0.000024801492763830049157, 2.755758735277528448e-6, 2.7630378295013823186e-7,
                                   2.499996169299861491e-8);
      return {f * f * tail + f, exponent};
    }
  }
}

template <class A>
SK_ALWAYS_INLINE Exponential<A> exponential(typename A::Value x) {
  return exponential<A>(x, typename A::Value{});
}

// factor * e^x
template <class A>
SK_ALWAYS_INLINE typename A::Value times(typename A::Value factor, Exponential<A> e) {
  return A::scale(factor * e.fraction + factor, e.exponent);
}

template <class A>
SK_ALWAYS_INLINE typename A::Value number(Exponential<A> e) {
  return A::scale(e.fraction + typename A::Scalar(1), e.exponent);
}

// The upper tail of the normal distribution over e^(-a^2/2), for a in [0, 15] (double: [0, 40]): a rational function
// whose coefficients are all positive, so that rounding costs little. Relative error 6e-9 (float), 1e-18 (double),
// 3e-5 (reduced).
template <class A>
SK_ALWAYS_INLINE typename A::Value normal_tail_ratio(typename A::Value a) {
  if constexpr (A::kReduced) {
    return polynomial<A>(a, 0.50001284491407674947, 0.27968426476420641811, 0.063125090783156467065) /
           polynomial<A>(a, 1.0, 1.3580457913326243969, 0.7059084592555934636, 0.15806873739923251017);
  } else if constexpr (sizeof(typename A::Scalar) == 4) {
    return polynomial<A>(a, 0.50000000314849564123, 0.43927983284309488426, 0.18396637240063620307,
                         0.040880167646278623506, 0.00415308021008904749) /
           polynomial<A>(a, 1.0, 1.6764446725325145374, 1.2055370090547180664, 0.47140137523946781066,
                         0.10247750130744136268, 0.010410116602384682597);
  } else {
    return polynomial<A>(a, 0.50000000000000000049, 0.82861588174076285076, 0.68068850142486452374,
                         0.35817853596611560691, 0.13245526662035854035, 0.035807037040189528863,
                         0.0071568286182296447995, 0.0010456484146505550822, 0.0001072919014775062427,
                         7.0313158028488420132e-6, 2.262774323395530597e-7) /
           polynomial<A>(a, 1.0, 2.4551163242843912813, 2.8202764129713174182, 2.0050154371640784075,
                         0.98250965827929223961, 0.34942340857016495733, 0.092340733845856747194,
                         0.018207315489668070665, 0.0026386767766766834939, 0.00026950810728932240695,
                         0.000017624894999307990957, 5.6719340981311089912e-7);
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
