// An activation and its derivative at the entries of a block: by tables where there are any, else by the formula.
#pragma once

#include "cpu/isa/activation/row_blocks.h"
#include "cpu/isa/activation/tail_table.h"

namespace seo_kernels::cpu {
namespace {

template <class Acc>
struct BlockJet {
  Block<Acc> value, first;
};

// What of a BlockJet is computed.
enum class Wanted { kValue, kFirst, kBoth };

template <class V, Wanted What>
inline __attribute__((always_inline)) BlockJet<typename V::Acc> formula_jet(const Block<typename V::Acc>& x,
                                                                            typename V::Acc slope) {
  BlockJet<typename V::Acc> result;
#pragma GCC unroll 4
  for (int v = 0; v < kVectors<typename V::Acc>; ++v) {
    const auto found = jet<V::kActivation, typename V::A>(x.vector[v], slope);
    if constexpr (What != Wanted::kFirst) result.value.vector[v] = found.value;
    if constexpr (What != Wanted::kValue) result.first.vector[v] = found.first;
  }
  return result;
}

#if defined(__AVX512F__)

// Puts the formula's results where x is beyond the table, whatever the neighbours are.
template <class V, Wanted What>
__attribute__((noinline)) void replace_beyond(float bound, const Block<float>& x, BlockJet<float>& found) {
  const BlockJet<float> exact = formula_jet<V, What>(x, 0);
#pragma GCC unroll 4
  for (int v = 0; v < kVectors<float>; ++v) {
    const __m512 a = _mm512_abs_ps((__m512)x.vector[v]);
    const uint64_t beyond = _mm512_cmp_ps_mask(a, _mm512_set1_ps(bound), _CMP_NLT_UQ);
    const auto replace = [&](Block<float>& to, const Block<float>& from) {
      to.vector[v] = select_bits<float>(beyond, from.vector[v], to.vector[v]);
    };
    if constexpr (What != Wanted::kFirst) replace(found.value, exact.value);
    if constexpr (What != Wanted::kValue) replace(found.first, exact.first);
  }
}

template <class V, Wanted What>
inline __attribute__((always_inline)) BlockJet<float> table_jet(const TailTable<V::kActivation, V::A::kReduced>& table,
                                                                const Block<float>& x) {
  BlockJet<float> result;
  __m512i largest = _mm512_setzero_si512();  // of |x| as whole numbers, which order as they do, NaN last
#pragma GCC unroll 4
  for (int v = 0; v < kVectors<float>; ++v) {
    const Vec<float> a = V::A::magnitude(x.vector[v]);
    const auto place = table.place(a);
    largest = _mm512_max_epi32(largest, (__m512i)a);
    if constexpr (What != Wanted::kFirst) {
      result.value.vector[v] = V::A::larger(-Vec<float>{}, x.vector[v]) - table.tail(place);
    }
    if constexpr (What != Wanted::kValue) {
      const Vec<float> slope = table.slope(place);
      result.first.vector[v] = x.vector[v] < 0.0f ? slope : 1.0f - slope;
    }
  }
  const __m512i bound = (__m512i)splat<float>(table.bound());
  if (__builtin_expect(_mm512_cmpge_epi32_mask(largest, bound) != 0, 0)) {
    BlockJet<float> replaced = result;
    replace_beyond<V, What>(table.bound(), x, replaced);
    return replaced;
  }
  return result;
}

#endif

// A variant's activation; `slope` is leaky_relu's.
template <class V>
class BlockActivation {
 public:
  using Acc = typename V::Acc;

  explicit BlockActivation(double slope) : slope_(static_cast<Acc>(slope)) {}

  template <Wanted What>
  inline __attribute__((always_inline)) BlockJet<Acc> operator()(const Block<Acc>& x) const {
#if defined(__AVX512F__)
    if constexpr (kTables) return table_jet<V, What>(table_, x);
#endif
    return formula_jet<V, What>(x, slope_);
  }

 private:
  const Acc slope_;
#if defined(__AVX512F__)
  static constexpr bool kTables = has_tail_table(V::kActivation) && std::is_same_v<Acc, float>;
  using Table = TailTable<kTables ? V::kActivation : Activation::kGelu, V::A::kReduced>;
  const Table& table_ = Table::get();
#endif
};

}  // namespace
}  // namespace seo_kernels::cpu
