// A small vector layer on the compilers' vector extensions: the width is the instruction set's, the code is one.
// Each plugin compiles these sources with its own flags; everything here has internal linkage.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

namespace seo_kernels::cpu {
namespace {

#if defined(SK_ISA_AVX512) || defined(SK_ISA_AVX512_BF16)
constexpr int kVectorBytes = 64;
constexpr int kMaxColumnVectors = 4;  // 6 x 4 accumulators of 32 registers
#elif defined(SK_ISA_AVX2)
constexpr int kVectorBytes = 32;
constexpr int kMaxColumnVectors = 2;  // 6 x 2 accumulators of 16 registers
#else
constexpr int kVectorBytes = 16;
constexpr int kMaxColumnVectors = 2;
#endif

#if defined(SK_ISA_AVX512_BF16)
constexpr bool kHasBFloat16Dot = true;
#else
constexpr bool kHasBFloat16Dot = false;
#endif

template <class T>
struct VectorOf {
  typedef T type __attribute__((vector_size(kVectorBytes)));
};
template <class T>
using Vec = typename VectorOf<T>::type;

template <class T>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));

// The signed integer of the same width: what comparisons of Vec<T> yield.
template <class T>
struct IntegerOf;
template <>
struct IntegerOf<float> {
  using type = int32_t;
};
template <>
struct IntegerOf<double> {
  using type = int64_t;
};
template <class T>
using Integer = typename IntegerOf<T>::type;
template <class T>
using Mask = Vec<Integer<T>>;

template <class T>
inline __attribute__((always_inline)) Vec<T> load(const T* from) {
  Vec<T> v;
  std::memcpy(&v, from, sizeof(v));
  return v;
}

template <class T>
inline __attribute__((always_inline)) void store(T* to, Vec<T> v) {
  std::memcpy(to, &v, sizeof(v));
}

template <class T, int... I>
inline __attribute__((always_inline)) Vec<T> splat_lanes(T x, std::integer_sequence<int, I...>) {
  return Vec<T>{((void)I, x)...};
}

template <class T>
inline __attribute__((always_inline)) Vec<T> splat(T x) {
  return splat_lanes<T>(x, std::make_integer_sequence<int, kLanes<T>>{});
}

template <class T, int... I>
inline __attribute__((always_inline)) Vec<T> iota_lanes(std::integer_sequence<int, I...>) {
  return Vec<T>{static_cast<T>(I)...};
}

// 0, 1, 2, ...
template <class T>
inline __attribute__((always_inline)) Vec<T> iota() {
  return iota_lanes<T>(std::make_integer_sequence<int, kLanes<T>>{});
}

// The larger; the second where either is NaN (as x86's max does).
template <class V>
inline __attribute__((always_inline)) V vmax(V a, V b) {
  return a > b ? a : b;
}

template <class T>
inline T reduce_add(Vec<T> v) {
  T sum = 0;
  for (int i = 0; i < kLanes<T>; ++i) sum += v[i];
  return sum;
}

template <class T>
inline T reduce_max(Vec<T> v) {
  T best = v[0];
  for (int i = 1; i < kLanes<T>; ++i) best = v[i] > best || v[i] != v[i] ? v[i] : best;
  return best;
}

#if defined(__AVX512F__)
template <>
inline float reduce_add<float>(Vec<float> v) {
  return _mm512_reduce_add_ps((__m512)v);
}
template <>
inline float reduce_max<float>(Vec<float> v) {
  // A NaN must come through, and the instruction's reduction may drop it.
  return _mm512_cmp_ps_mask((__m512)v, (__m512)v, _CMP_UNORD_Q) ? __builtin_nanf("") : _mm512_reduce_max_ps((__m512)v);
}
#endif

// The maxima of neighbouring lanes, S apart, of two vectors in one: a step of reduce_max_rows.
template <class T, int S, int... I>
inline __attribute__((always_inline)) Vec<T> fold_max(Vec<T> a, Vec<T> b, std::integer_sequence<int, I...>) {
  using Index = Vec<Integer<T>>;
  constexpr int W = kLanes<T>;
  // lanes of a where bit S of the lane is clear, of b where it is set, each beside its partner S away
  const Vec<T> own = __builtin_shuffle(a, b, Index{((I & S) == 0 ? I : W + I)...});
  const Vec<T> other = __builtin_shuffle(a, b, Index{((I & S) == 0 ? I + S : W + I - S)...});
  return vmax(own, other);
}

// Lane n: the largest entry of v[n]. A NaN may be lost.
template <class T, int S = 1>
inline __attribute__((always_inline)) Vec<T> reduce_max_rows(Vec<T>* v) {
  constexpr int W = kLanes<T>;
  if constexpr (S == W) {
    return v[0];
  } else {
#pragma GCC unroll 16
    for (int n = 0; n < W; n += 2 * S) {
      v[n] = fold_max<T, S>(v[n], v[n + S], std::make_integer_sequence<int, W>{});
    }
    return reduce_max_rows<T, S * 2>(v);
  }
}

// Lanes whose bit is set (bit 0: lane 0).
template <class T>
inline __attribute__((always_inline)) Mask<T> bits_to_mask(uint64_t bits) {
#if defined(__AVX512F__) && defined(__AVX512DQ__)
  if constexpr (sizeof(T) == 4) return (Mask<T>)_mm512_movm_epi32(static_cast<__mmask16>(bits));
  if constexpr (sizeof(T) == 8) return (Mask<T>)_mm512_movm_epi64(static_cast<__mmask8>(bits));
#else
  const Mask<T> lane = iota<Integer<T>>();
  return ((splat<Integer<T>>(static_cast<Integer<T>>(bits & ((uint64_t{1} << kLanes<T>)-1))) >> lane) & 1) != 0;
#endif
}

// a in the lanes whose bit is set, b elsewhere.
template <class T>
inline __attribute__((always_inline)) Vec<T> select_bits(uint64_t bits, Vec<T> a, Vec<T> b) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) {
    return (Vec<T>)_mm512_mask_blend_ps(static_cast<__mmask16>(bits), (__m512)b, (__m512)a);
  } else {
    return (Vec<T>)_mm512_mask_blend_pd(static_cast<__mmask8>(bits), (__m512d)b, (__m512d)a);
  }
#else
  return bits_to_mask<T>(bits) ? a : b;
#endif
}

}  // namespace
}  // namespace seo_kernels::cpu
