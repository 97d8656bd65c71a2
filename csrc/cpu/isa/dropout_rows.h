// Dropout's random words (semantics/philox.h) on whole vectors of columns, four rows at a time: the four words of one
// counter belong to four neighbouring rows.
#pragma once

#include "cpu/isa/simd.h"
#include "semantics/philox.h"

namespace seo_kernels::cpu {
namespace {

using Words = Vec<uint32_t>;
using WideWords = Vec<uint64_t>;  // one word per lane, in its low half; the high half holds anything

// The products of the low halves.
inline __attribute__((always_inline)) WideWords multiply_words(WideWords a, uint32_t m) {
#if defined(__AVX512F__)
  return (WideWords)_mm512_mul_epu32((__m512i)a, _mm512_set1_epi64(m));
#elif defined(__AVX2__)
  return (WideWords)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi64x(m));
#else
  return (a & 0xFFFFFFFFu) * m;
#endif
}

// philox() of semantics/philox.h on vectors of counters.
inline __attribute__((always_inline)) void philox_vectors(WideWords (&c)[4], uint32_t key0, uint32_t key1) {
#pragma GCC unroll 10
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const WideWords product0 = multiply_words(c[0], kPhiloxM0), product1 = multiply_words(c[2], kPhiloxM1);
    c[0] = (product1 >> 32) ^ c[1] ^ key0;
    c[1] = product1;
    c[2] = (product0 >> 32) ^ c[3] ^ key1;
    c[3] = product0;
    key0 += kPhiloxW0;
    key1 += kPhiloxW1;
  }
}

// words[r], lane n: that of row 4 * row_group + r and column `column` + n (attention_dropout_word of philox.h).
inline __attribute__((always_inline)) void dropout_words(uint64_t seed, uint32_t batch, uint32_t head,
                                                         uint32_t row_group, uint32_t column, Words (&words)[4]) {
  const uint32_t key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
  const WideWords lanes = iota<uint64_t>() * 2 + column;
  WideWords even[4] = {lanes, splat<uint64_t>(row_group), splat<uint64_t>(head), splat<uint64_t>(batch)};
  WideWords odd[4] = {lanes + 1, even[1], even[2], even[3]};
  philox_vectors(even, key0, key1);
  philox_vectors(odd, key0, key1);
  for (int r = 0; r < 4; ++r) words[r] = (Words)((even[r] & 0xFFFFFFFFu) | odd[r] << 32);
}

// Bit n: whether lane n is not below the threshold.
inline __attribute__((always_inline)) uint32_t kept_bits(Words words, uint32_t threshold) {
#if defined(__AVX512F__)
  return _mm512_cmpge_epu32_mask((__m512i)words, _mm512_set1_epi32(static_cast<int>(threshold)));
#elif defined(__AVX2__)
  return static_cast<uint32_t>(_mm256_movemask_ps((__m256)(words >= threshold)));
#else
  uint32_t bits = 0;
  for (int n = 0; n < kLanes<uint32_t>; ++n) bits |= static_cast<uint32_t>(words[n] >= threshold) << n;
  return bits;
#endif
}

}  // namespace
}  // namespace seo_kernels::cpu
