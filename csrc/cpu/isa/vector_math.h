// Elementary functions on vectors: 2^x and tanh. Polynomials are minimax fits of relative error on [-1/2, 1/2].
#pragma once

#include "cpu/isa/simd.h"

namespace seo_kernels::cpu {
namespace {

constexpr double kLog2E = 1.4426950408889634074;
constexpr double kLn2 = 0.69314718055994530942;

// 2^f = sum c_k f^k. Relative error: full 1.9e-9 (float), 3e-18 (double); reduced, for f in [0, 1], 7.5e-5, enough
// where the result is rounded to bfloat16.
template <class T, bool Reduced>
inline __attribute__((always_inline)) Vec<T> exp2_polynomial(Vec<T> f) {
  if constexpr (sizeof(T) == 8) {
    constexpr double c[] = {0.999999999999999997,    0.693147180559945331,     0.240226506959101566,
                            0.0555041086648199133,   0.00961812910758817539,   0.00133335581467913675,
                            0.000154035304627210125, 0.0000152527334890466166, 1.32154329826579877e-6,
                            1.0178198245553752e-7,   7.07412474777755686e-9,   4.43527246381381922e-10};
    Vec<T> p = splat<T>(c[11]);
    for (int k = 10; k >= 0; --k) p = p * f + splat<T>(c[k]);
    return p;
  } else if constexpr (Reduced) {
    Vec<T> p = splat<T>(0.0780245226402404787f);
    p = p * f + splat<T>(0.226067155427481464f);
    p = p * f + splat<T>(0.695833540494753802f);
    return p * f + splat<T>(0.999925218562715423f);
  } else {
    Vec<T> p = splat<T>(0.000153457545229182193f);
    p = p * f + splat<T>(0.00133999972113739374f);
    p = p * f + splat<T>(0.0096184896750965058f);
    p = p * f + splat<T>(0.0555032861411913792f);
    p = p * f + splat<T>(0.240226468792488395f);
    p = p * f + splat<T>(0.693147205811939975f);
    return p * f + splat<T>(1.0f);
  }
}

// 2^x for x <= 0 or a little above; 0 below the smallest normal number, NaN for NaN.
template <class T, bool Reduced = false>
inline __attribute__((always_inline)) Vec<T> exp2(Vec<T> x) {
#if defined(__AVX512F__)
  // x less the nearest or next lower integer, and 0 for infinity; scaling rounds down to the integer again.
  constexpr int to = (Reduced ? _MM_FROUND_TO_NEG_INF : _MM_FROUND_TO_NEAREST_INT) | _MM_FROUND_NO_EXC;
  if constexpr (sizeof(T) == 4) {
    const Vec<T> f = (Vec<T>)_mm512_reduce_ps((__m512)x, to);
    const Vec<T> n = Reduced ? x : x - f;
    return (Vec<T>)_mm512_scalef_ps((__m512)exp2_polynomial<T, Reduced>(f), (__m512)n);
  } else {
    const Vec<T> f = (Vec<T>)_mm512_reduce_pd((__m512d)x, to);
    const Vec<T> n = Reduced ? x : x - f;
    return (Vec<T>)_mm512_scalef_pd((__m512d)exp2_polynomial<T, Reduced>(f), (__m512d)n);
  }
#else
  static_assert(!Reduced);
  using I = Integer<T>;
  constexpr T lowest = sizeof(T) == 4 ? T(-126) : T(-1022);
  constexpr int mantissa = sizeof(T) == 4 ? 23 : 52;
  const Vec<T> magic = splat<T>(sizeof(T) == 4 ? T(12582912.0) : T(6755399441055744.0));  // 1.5 * 2^mantissa
  const Vec<T> t = x < lowest ? splat<T>(lowest) : x;
  const Vec<T> shifted = t + magic;
  const Vec<T> f = t - (shifted - magic);
  const Vec<T> p = exp2_polynomial<T, false>(f);
  const Vec<I> n = (Vec<I>)shifted - (Vec<I>)magic;
  const Vec<T> scaled = (Vec<T>)((Vec<I>)p + (n << mantissa));
  const Vec<T> result = x < lowest ? Vec<T>{} : scaled;
  return x == x ? result : x;
#endif
}

template <class T>
inline Vec<T> vabs(Vec<T> x) {
  return x < T(0) ? -x : x;
}

// tanh with small relative error: an odd series near zero, 1 - 2 / (e^{2|x|} + 1) beyond.
template <class T>
inline Vec<T> vtanh(Vec<T> x) {
  const Vec<T> a = vabs<T>(x);
  const Vec<T> e = exp2<T>(splat<T>(T(-2 * kLog2E)) * a);  // e^{-2|x|}
  const Vec<T> far = (T(1) - e) / (T(1) + e);
  // Taylor coefficients of tanh(x) / x in x^2; the bound keeps the truncation below rounding.
  constexpr double c[] = {1.0,
                          -0.33333333333333333333,
                          0.13333333333333333333,
                          -0.053968253968253968254,
                          0.021869488536155202822,
                          -0.0088632355299021965689,
                          0.0035921280365724810169,
                          -0.0014558343870513182682,
                          0.00059002744094558598138,
                          -0.00023912911424355248149,
                          9.6915379569294503256e-5,
                          -3.9278323883316834053e-5,
                          1.5918905069328964439e-5};
  constexpr int terms = sizeof(T) == 4 ? 7 : 13;
  const Vec<T> square = a * a;
  Vec<T> series = splat<T>(static_cast<T>(c[terms - 1]));
  for (int k = terms - 2; k >= 0; --k) series = series * square + splat<T>(static_cast<T>(c[k]));
  const Vec<T> near = a * series;
  const Vec<T> magnitude = a < splat<T>(T(0.35)) ? near : far;
  return x < T(0) ? -magnitude : magnitude;
}

}  // namespace
}  // namespace seo_kernels::cpu
