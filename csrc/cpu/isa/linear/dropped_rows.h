// Dropout on a few rows of a matrix: which entries are kept, and the rows with the others set to zero.
#pragma once

#include "cpu/isa/dropout_rows.h"
#include "cpu/isa/linear/operands.h"
#include "cpu/linear_params.h"

namespace seo_kernels::cpu {
namespace {

// Row r, column n: bit n % 16 of word r * ld + n / 16.
class KeptEntries {
 public:
  KeptEntries(const DropoutBits& dropout, int64_t max_rows, int64_t columns)
      : seed_(dropout.seed),
        threshold_(dropout_threshold(dropout.p)),
        ld_((columns + kBits - 1) / kBits),
        bits_(dropout.any ? (max_rows + 3) * ld_ : 0) {}

  // rows.begin: a multiple of 4
  void draw(Range rows) {
    constexpr int lanes = kLanes<uint32_t>;
    for (int64_t row = rows.begin; row < rows.end; row += 4) {
      uint16_t* to = bits_.get() + (row - rows.begin) * ld_;
      for (int64_t n = 0; n < ld_; ++n) {
        uint32_t bits[4] = {};
        for (int part = 0; part < kBits; part += lanes) {
          Words words[4];
          dropout_words(seed_, 0, 0, static_cast<uint32_t>(row / 4), static_cast<uint32_t>(n * kBits + part), words);
          for (int r = 0; r < 4; ++r) bits[r] |= kept_bits(words[r], threshold_) << part;
        }
        for (int r = 0; r < 4; ++r) to[r * ld_ + n] = static_cast<uint16_t>(bits[r]);
      }
    }
  }

  // The bits of kLanes<Acc> columns from `column` on, a multiple of them.
  template <class Acc>
  uint32_t lanes(int64_t row, int64_t column) const {
    constexpr uint32_t all = kLanes<Acc> == 32 ? ~0u : (1u << kLanes<Acc>)-1;
    return bits_[row * ld_ + column / kBits] >> (column % kBits) & all;
  }

  // to (rows, columns.size()) = these columns of `from` where kept, zeros elsewhere. columns.begin: a multiple of 16.
  template <class T>
  void select(int64_t rows, Range columns, const T* from, int64_t from_ld, T* to, int64_t to_ld) const {
    for (int64_t r = 0; r < rows; ++r) {
      const uint16_t* bits = bits_.get() + r * ld_ + columns.begin / kBits;
      const int64_t whole = columns.size() / kBits;
      for (int64_t n = 0; n < whole; ++n) {
        select_some(bits[n], kBits, from + r * from_ld + n * kBits, to + r * to_ld + n * kBits);
      }
      const int64_t rest = whole * kBits;
      if (rest < columns.size()) {
        select_some(bits[whole], columns.size() - rest, from + r * from_ld + rest, to + r * to_ld + rest);
      }
    }
  }

 private:
  static constexpr int kBits = 16;

  template <class T>
  static inline __attribute__((always_inline)) void select_some(uint16_t bits, int64_t count, const T* from, T* to) {
#if defined(__AVX512F__)
    if (count == kBits) {
      if constexpr (sizeof(T) == 2) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_maskz_loadu_epi16(bits, from));
        return;
      } else if constexpr (sizeof(T) == 4) {
        _mm512_storeu_ps(to, _mm512_maskz_loadu_ps(bits, from));
        return;
      }
    }
#endif
    for (int64_t n = 0; n < count; ++n) to[n] = bits >> n & 1 ? from[n] : T(0);
  }

  uint64_t seed_;
  uint32_t threshold_;
  int64_t ld_;
  Scratch<uint16_t> bits_;
};

}  // namespace
}  // namespace seo_kernels::cpu
