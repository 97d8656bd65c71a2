// The activations on vectors: the formulas of semantics/activation.h, instantiated for Vec<float> and Vec<double>.
#pragma once

#include <limits>

#include "cpu/isa/simd.h"
#include "semantics/activation.h"

namespace seo_kernels::cpu {
namespace {

// Reduced: for results that are rounded to bfloat16.
template <class T, bool Reduced = false>
struct VectorArithmetic {
  using Scalar = T;
  using Value = Vec<T>;
  static constexpr bool kReduced = Reduced;

  static inline __attribute__((always_inline)) Value magnitude(Value x) {
    return (Value)((Mask<T>)x & std::numeric_limits<Integer<T>>::max());
  }

  static inline __attribute__((always_inline)) Value smaller(Value a, Value b) {
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4) return (Value)_mm512_min_ps((__m512)a, (__m512)b);
    if constexpr (sizeof(T) == 8) return (Value)_mm512_min_pd((__m512d)a, (__m512d)b);
#else
    return a < b ? a : b;
#endif
  }

  // The larger; b where either is NaN or they are equal.
  static inline __attribute__((always_inline)) Value larger(Value a, Value b) {
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4) return (Value)_mm512_max_ps((__m512)a, (__m512)b);
    if constexpr (sizeof(T) == 8) return (Value)_mm512_max_pd((__m512d)a, (__m512d)b);
#else
    return a > b ? a : b;
#endif
  }

  static inline __attribute__((always_inline)) Value product_error(Value a, Value b, Value product) {
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4) return (Value)_mm512_fmsub_ps((__m512)a, (__m512)b, (__m512)product);
    if constexpr (sizeof(T) == 8) return (Value)_mm512_fmsub_pd((__m512d)a, (__m512d)b, (__m512d)product);
#elif defined(__FMA__)
    if constexpr (sizeof(T) == 4) return (Value)_mm256_fmsub_ps((__m256)a, (__m256)b, (__m256)product);
    if constexpr (sizeof(T) == 8) return (Value)_mm256_fmsub_pd((__m256d)a, (__m256d)b, (__m256d)product);
#else
    // upper halves of the mantissas: their products are exact (Dekker 1971)
    const Value a_high = upper_half(a), b_high = upper_half(b), a_low = a - a_high, b_low = b - b_high;
    return ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low;
#endif
  }

  static inline __attribute__((always_inline)) Value remainder(Value c, Value a, Value b) {
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4) return (Value)_mm512_fnmadd_ps((__m512)a, (__m512)b, (__m512)c);
    if constexpr (sizeof(T) == 8) return (Value)_mm512_fnmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#elif defined(__FMA__)
    if constexpr (sizeof(T) == 4) return (Value)_mm256_fnmadd_ps((__m256)a, (__m256)b, (__m256)c);
    if constexpr (sizeof(T) == 8) return (Value)_mm256_fnmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#else
    return -product_error(a, b, c);
#endif
  }

  static inline __attribute__((always_inline)) Value inverse(Value d) {
#if defined(__AVX512F__)
    if constexpr (Reduced) return (Value)_mm512_rcp14_ps((__m512)d);
#endif
    return T(1) / d;
  }

  static inline __attribute__((always_inline)) Value scale(Value value, Value exponent) {
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4) return (Value)_mm512_scalef_ps((__m512)value, (__m512)exponent);
    if constexpr (sizeof(T) == 8) return (Value)_mm512_scalef_pd((__m512d)value, (__m512d)exponent);
#else
    // in two steps, both powers of two being normal numbers: only the second can underflow, and rounds
    using I = Integer<T>;
    constexpr T rounder = sizeof(T) == 4 ? T(12582912.0) : T(6755399441055744.0);  // 1.5 * 2^mantissa
    constexpr int mantissa = sizeof(T) == 4 ? 23 : 52;
    constexpr I bias = sizeof(T) == 4 ? 127 : 1023;
    const Vec<I> whole = (Vec<I>)(exponent + rounder) - (Vec<I>)splat<T>(rounder);
    const Vec<I> half = whole >> 1;
    const Vec<T> first = (Vec<T>)((half + bias) << mantissa), second = (Vec<T>)((whole - half + bias) << mantissa);
    return value * first * second;
#endif
  }

 private:
  static inline __attribute__((always_inline)) Value upper_half(Value v) {
    using I = Integer<T>;
    constexpr I kept = sizeof(T) == 4 ? I(~0xFFF) : I(~0x7FFFFFF);
    return (Value)((Vec<I>)v & kept);
  }
};

template <Activation Which, class T, bool Reduced = false>
inline __attribute__((always_inline)) Vec<T> activate(Vec<T> x, T negative_slope) {
  return jet<Which, VectorArithmetic<T, Reduced>>(x, negative_slope).value;
}

template <Activation Which, class T, bool Reduced = false>
inline __attribute__((always_inline)) Vec<T> activate_derivative(Vec<T> x, T negative_slope) {
  return jet<Which, VectorArithmetic<T, Reduced>>(x, negative_slope).first;
}

}  // namespace
}  // namespace seo_kernels::cpu
