// Elements as tensors store them, loaded as and stored from whole vectors of the accumulation type.
#pragma once

#include <algorithm>

#include "cpu/isa/pack.h"

namespace seo_kernels::cpu {
namespace {

struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

// Calls f with a value of the stored type. Accumulation is in double for float64 alone.
template <class Acc, class F>
inline void with_stored(DType dtype, F f) {
  if constexpr (sizeof(Acc) == 8) {
    f(double{});
  } else if (dtype == DType::kBFloat16) {
    f(BFloat16{});
  } else if (dtype == DType::kFloat16) {
    f(Float16{});
  } else {
    f(float{});
  }
}

typedef uint16_t HalfWords __attribute__((vector_size(kVectorBytes / 2)));  // as many as a vector has floats

// kLanes<Acc> elements.
template <class Acc, class S>
inline __attribute__((always_inline)) Vec<Acc> load_wide(const S* from) {
  if constexpr (std::is_same_v<S, Acc>) {
    return load(from);
  } else if constexpr (std::is_same_v<S, BFloat16>) {
#if defined(__AVX512F__)  // g++ 12 widens vectors of 512 bits by halves
    __m256i bits;
    std::memcpy(&bits, from, sizeof(bits));
    return (Vec<Acc>)_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16);
#else
    HalfWords bits;
    std::memcpy(&bits, from, sizeof(bits));
    return (Vec<Acc>)(__builtin_convertvector(bits, Vec<uint32_t>) << 16);
#endif
  } else {
    static_assert(std::is_same_v<S, Float16>);
#if defined(__AVX512F__)
    __m256i bits;
    std::memcpy(&bits, from, sizeof(bits));
    return (Vec<Acc>)_mm512_cvtph_ps(bits);
#elif defined(__F16C__)
    __m128i bits;
    std::memcpy(&bits, from, sizeof(bits));
    return (Vec<Acc>)_mm256_cvtph_ps(bits);
#else
    Vec<Acc> wide;
    for (int n = 0; n < kLanes<Acc>; ++n) wide[n] = float16_to_float(from[n].bits);
    return wide;
#endif
  }
}

// Rounds to nearest even. (The bfloat16 conversion instruction would flush denormals.)
template <class S, class Acc>
inline __attribute__((always_inline)) void store_narrow(S* to, Vec<Acc> v) {
  if constexpr (std::is_same_v<S, Acc>) {
    store(to, v);
  } else if constexpr (std::is_same_v<S, BFloat16>) {
    const Vec<uint32_t> bits = (Vec<uint32_t>)v;
    const Vec<uint32_t> rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
    const Vec<uint32_t> kept = v == v ? rounded : (bits >> 16) | 0x40u;
    const HalfWords narrow = __builtin_convertvector(kept, HalfWords);
    std::memcpy(to, &narrow, sizeof(narrow));
  } else {
    static_assert(std::is_same_v<S, Float16>);
#if defined(__AVX512F__)
    const __m256i bits = _mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    std::memcpy(to, &bits, sizeof(bits));
#elif defined(__F16C__)
    const __m128i bits = _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    std::memcpy(to, &bits, sizeof(bits));
#else
    for (int n = 0; n < kLanes<Acc>; ++n) to[n].bits = float_to_float16(v[n]);
#endif
  }
}

// The first `count` lanes; the others are zero.
template <class Acc, class S>
inline Vec<Acc> load_part(const S* from, int64_t count) {
  S part[kLanes<Acc>] = {};
  std::copy_n(from, count, part);
  return load_wide<Acc>(part);
}

template <class S, class Acc>
inline void store_part(S* to, Vec<Acc> v, int64_t count) {
  S part[kLanes<Acc>];
  store_narrow<S, Acc>(part, v);
  std::copy_n(part, count, to);
}

}  // namespace
}  // namespace seo_kernels::cpu
