// Dropout factors (0 or 1 / (1 - p)) for a tile of attention weights: Philox on whole vectors of keys, four query rows
// at a time, since the four words of one counter belong to four neighbouring queries.
#pragma once

#include "cpu/isa/attention/score_tile.h"
#include "semantics/philox.h"

namespace seo_kernels::cpu {
namespace {

using Words = Vec<uint32_t>;

// The high and low halves of a * m.
inline void multiply_wide(Words a, uint32_t m, Words& high, Words& low) {
  low = a * m;
#if defined(__AVX512F__)
  const __m512i factor = _mm512_set1_epi64(m);
  const __m512i even = _mm512_mul_epu32((__m512i)a, factor);
  const __m512i odd = _mm512_mul_epu32(_mm512_srli_epi64((__m512i)a, 32), factor);
  high = (Words)_mm512_mask_blend_epi32(0xAAAA, _mm512_srli_epi64(even, 32), odd);
#elif defined(__AVX2__)
  const __m256i factor = _mm256_set1_epi64x(m);
  const __m256i even = _mm256_mul_epu32((__m256i)a, factor);
  const __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64((__m256i)a, 32), factor);
  high = (Words)_mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xAA);
#else
  for (int n = 0; n < kLanes<uint32_t>; ++n) high[n] = static_cast<uint32_t>((uint64_t{a[n]} * m) >> 32);
#endif
}

// philox() of semantics/philox.h on vectors of counters.
inline void philox_vectors(Words (&c)[4], uint32_t key0, uint32_t key1) {
  for (int round = 0; round < kPhiloxRounds; ++round) {
    Words high0, low0, high1, low1;
    multiply_wide(c[0], kPhiloxM0, high0, low0);
    multiply_wide(c[2], kPhiloxM1, high1, low1);
    c[0] = high1 ^ c[1] ^ key0;
    c[1] = low1;
    c[2] = high0 ^ c[3] ^ key1;
    c[3] = low0;
    key0 += kPhiloxW0;
    key1 += kPhiloxW1;
  }
}

template <class E>
class DropoutTile {
 public:
  using Acc = typename E::Acc;

  DropoutTile(const AttentionParams& p, int64_t ld)
      : seed_(p.seed),
        threshold_(dropout_threshold(p.dropout_p)),
        kept_(static_cast<Acc>(1.0 / (1.0 - p.dropout_p))),
        ld_(ld),
        factors_(p.dropout ? (kMaxTileRows + 3) * ld : 0) {}

  void fill(const ScoreTile<E>& tile, const PanelBlock& block) {
    constexpr int lanes = kLanes<uint32_t>;
    for (int64_t row = 0; row < tile.rows(); row += 4) {
      for (int c = 0; c < block.count; ++c) {
        for (int64_t n = 0; n < kPanel; n += lanes) {
          const uint32_t key = static_cast<uint32_t>(block.panel[c] * kPanel + n);
          Words words[4] = {iota<uint32_t>() + key, splat(static_cast<uint32_t>((tile.row_begin() + row) / 4)),
                            splat(static_cast<uint32_t>(tile.head())), splat(static_cast<uint32_t>(tile.batch()))};
          philox_vectors(words, static_cast<uint32_t>(seed_), static_cast<uint32_t>(seed_ >> 32));
          for (int r = 0; r < 4; ++r) {
            Acc* to = factors_.get() + (row + r) * ld_ + c * kPanel + n;
            for (int lane = 0; lane < lanes; ++lane) to[lane] = words[r][lane] >= threshold_ ? kept_ : Acc(0);
          }
        }
      }
    }
  }

  const Acc* row(int64_t r) const { return factors_.get() + r * ld_; }

 private:
  uint64_t seed_;
  uint32_t threshold_;
  Acc kept_;
  int64_t ld_;
  Scratch<Acc> factors_;
};

}  // namespace
}  // namespace seo_kernels::cpu
