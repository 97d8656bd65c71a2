// dropout: random words, and the elements that they keep, in one pass.
#include "semantics/dropout.h"
#include "cpu/isa/dropout_rows.h"
#include "cpu/isa/entry.h"
#include "cpu/isa/stored.h"

namespace seo_kernels::cpu {
namespace {

// Bit n: of the n-th half word, counted from the low half of the first word.
struct HalfBits {
  uint32_t not_below, equal;
};

// With a threshold.
inline __attribute__((always_inline)) HalfBits compare_halves(Words words, uint16_t threshold) {
#if defined(__AVX512F__)
  const __m512i limit = _mm512_set1_epi16(static_cast<int16_t>(threshold));
  return {_mm512_cmpge_epu16_mask((__m512i)words, limit), _mm512_cmpeq_epu16_mask((__m512i)words, limit)};
#elif defined(__AVX2__)
  const __m256i limit = _mm256_set1_epi16(static_cast<int16_t>(threshold));
  const auto bits = [](__m256i mask) {
    const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(mask), _mm256_extracti128_si256(mask, 1));
    return static_cast<uint32_t>(_mm_movemask_epi8(bytes));
  };
  const __m256i not_below = _mm256_cmpeq_epi16(_mm256_max_epu16((__m256i)words, limit), (__m256i)words);
  return {bits(not_below), bits(_mm256_cmpeq_epi16((__m256i)words, limit))};
#else
  HalfBits bits{0, 0};
  for (int n = 0; n < 2 * kLanes<uint32_t>; ++n) {
    const uint32_t half = word_half(words[n / 2], n % 2);
    bits.not_below |= static_cast<uint32_t>(half >= threshold) << n;
    bits.equal |= static_cast<uint32_t>(half == threshold) << n;
  }
  return bits;
#endif
}

// Calls f(n, offset, stride, length) for the elements in runs along the innermost dimension; n counts from 0. `stride`:
// of the pair's tensor that is meant
template <class F>
inline void for_runs(const StridedPair& pair, const int64_t (&stride)[StridedPair::kMaxDims], Range elements, F f) {
  const int last = pair.dims - 1;
  int64_t at[StridedPair::kMaxDims], offset = 0, index = elements.begin;
  for (int d = last; d >= 0; --d) {
    at[d] = index % pair.size[d];
    index /= pair.size[d];
    offset += at[d] * stride[d];
  }
  for (int64_t n = 0; n < elements.size();) {
    const int64_t length = std::min(elements.size() - n, pair.size[last] - at[last]);
    f(n, offset, stride[last], length);
    n += length;
    at[last] += length;
    offset += length * stride[last];
    for (int d = last; d > 0 && at[d] == pair.size[d]; --d) {
      at[d] = 0;
      ++at[d - 1];
      offset += stride[d - 1] - pair.size[d] * stride[d];
    }
  }
}

constexpr int64_t kNeighbours = 16;  // rows that are walked along together

template <class Stored>
class Dropping {
 public:
  using S = Stored;
  using Acc = std::conditional_t<std::is_same_v<S, double>, double, float>;

  explicit Dropping(const DropoutParams& p)
      : p_(p), threshold_(dropout_threshold(p.p)), factor_(static_cast<Acc>(1.0 / (1.0 - p.p))) {}

  void blocks(Range blocks) const {
    const int64_t whole = std::min(blocks.end, p_.pair.elements / kDropoutBlock);
    if (p_.pair.dims == 1 && p_.pair.from[0] == 1 && p_.pair.to[0] == 1) {
      const S* from = static_cast<const S*>(p_.input);
      S* to = static_cast<S*>(p_.out);
      for (; blocks.begin < whole; ++blocks.begin) {
        drop(blocks.begin, from + blocks.begin * kDropoutBlock, to + blocks.begin * kDropoutBlock);
      }
    }
    if (blocks.size() > 0) scattered(blocks);
  }

 private:
  // Rows along the innermost dimension are often neighbours in memory: their blocks come one after the other.
  void scattered(Range blocks) const {
    const int64_t row = std::max<int64_t>(1, p_.pair.size[p_.pair.dims - 1] / kDropoutBlock);
    for (int64_t begin = blocks.begin; begin < blocks.end; begin += kNeighbours * row) {
      for (int64_t n = 0; n < row; ++n) {
        for (int64_t block = begin + n; block < std::min(blocks.end, begin + kNeighbours * row); block += row) {
          by_copy(block);
        }
      }
    }
  }

  void by_copy(int64_t block) const {
    const S* input = static_cast<const S*>(p_.input);
    S* out = static_cast<S*>(p_.out);
    const int64_t first = block * kDropoutBlock, count = std::min(p_.pair.elements - first, int64_t{kDropoutBlock});
    alignas(64) S copy[kDropoutBlock] = {};
    for_runs(p_.pair, p_.pair.from, {first, first + count}, [&](int64_t n, int64_t at, int64_t stride, int64_t length) {
      for (int64_t i = 0; i < length; ++i) copy[n + i] = input[at + i * stride];
    });
    drop(block, copy, copy);
    for_runs(p_.pair, p_.pair.to, {first, first + count}, [&](int64_t n, int64_t at, int64_t stride, int64_t length) {
      for (int64_t i = 0; i < length; ++i) out[at + i * stride] = copy[n + i];
    });
  }

  // A whole block.
  inline __attribute__((always_inline)) void drop(int64_t block, const S* from, S* to) const {
    constexpr int lanes = kLanes<uint32_t>, vectors = kDropoutBlock / (2 * lanes);
    const uint64_t counter = static_cast<uint64_t>(block) * kDropoutCounters;
    uint32_t kept[vectors], tied[vectors], any = 0;
    for (int part = 0; part < kDropoutCounters / lanes; ++part) {
      Words words[4];
      dropout_words(p_.seed, 0, 0, static_cast<uint32_t>(counter >> 32), static_cast<uint32_t>(counter) + part * lanes,
                    words);
      for (int w = 0; w < 4; ++w) {
        const int v = w * (vectors / 4) + part;
        const HalfBits bits = compare_halves(words[w], static_cast<uint16_t>(threshold_ >> 16));
        kept[v] = bits.not_below;
        any |= tied[v] = bits.equal;
      }
    }
    if (__builtin_expect(any != 0, 0)) settle(block, tied, kept, vectors);
    for (int v = 0; v < vectors; ++v) {
      for (int n = 0; n < 2 * lanes; n += kLanes<Acc>) {
        const int64_t at = v * 2 * lanes + n;
        const Vec<Acc> scaled = load_wide<Acc>(from + at) * factor_;
        store_narrow<S, Acc>(to + at, select_bits<Acc>(kept[v] >> n, scaled, Vec<Acc>{}));
      }
    }
  }

  // Elements whose upper half is that of the threshold: a few in 65536.
  __attribute__((noinline)) void settle(int64_t block, const uint32_t* tied, uint32_t* kept, int vectors) const {
    constexpr int elements = 2 * kLanes<uint32_t>;  // of a vector
    for (int v = 0; v < vectors; ++v) {
      for (uint32_t left = tied[v]; left != 0; left &= left - 1) {
        const int n = __builtin_ctz(left);
        if (!keeps_tied_element(p_.seed, block, v * elements + n, threshold_)) kept[v] &= ~(1u << n);
      }
    }
  }

  const DropoutParams& p_;
  const uint32_t threshold_;
  const Acc factor_;
};

}  // namespace

void dropout(const DropoutParams& p, Range blocks) {
  const auto run = [&](auto stored) { Dropping<decltype(stored)>(p).blocks(blocks); };
  p.dtype == DType::kFloat64 ? run(double{}) : with_stored<float>(p.dtype, run);
}

}  // namespace seo_kernels::cpu
