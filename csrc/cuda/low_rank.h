// What the kernels of products with a matrix of few rows share: sizes known when compiled, dropout's bits.
#pragma once

#include "cuda/lora.h"
#include "semantics/philox.h"

namespace seo_kernels::cuda {

constexpr int kLanes = 32, kWarps = 8;  // of a block
constexpr int kWordRows = 4;            // neighbouring rows that draw the words of one counter
constexpr int64_t kBlocksWanted = 512;  // to keep the largest devices busy

// Bit kWordRows * n + r: whether row kWordRows * group + r of column `column` + n is kept.
template <int N>
SK_DEVICE inline uint32_t kept_bits(const Dropout& dropout, uint64_t seed, int64_t group, int64_t column) {
  static_assert(kWordRows * N <= 32);
  uint32_t bits = 0;
#pragma unroll(N == 1 ? 1 : 2)  // two at a time have enough to overlap
  for (int n = 0; n < N; ++n) {
    const PhiloxWords words = philox({{static_cast<uint32_t>(column + n), static_cast<uint32_t>(group), 0, 0}},
                                     static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
#pragma unroll
    for (int r = 0; r < kWordRows; ++r) {
      bits |= static_cast<uint32_t>(words.word[r] >= dropout.threshold) << (kWordRows * n + r);
    }
  }
  return bits;
}

SK_DEVICE inline bool is_kept(uint32_t bits, int n, int row) { return bits >> (kWordRows * n + row) & 1u; }

SK_DEVICE inline uint64_t seed_of(const Dropout& dropout) { return dropout ? static_cast<uint64_t>(*dropout.seed) : 0; }

// Sets to zero what is not kept of row `row` of the group.
template <class S, int N>
SK_DEVICE inline void drop_entries(uint32_t bits, int row, Chunk<S, N>& chunk) {
#pragma unroll
  for (int n = 0; n < N; ++n) {
    if (!is_kept(bits, n, row)) chunk.element[n] = narrow<S>(AccOf<S>(0));
  }
}

template <class S, int N>
SK_DEVICE inline Chunk<S, N> zeros() {
  Chunk<S, N> chunk;
#pragma unroll
  for (int n = 0; n < N; ++n) chunk.element[n] = narrow<S>(AccOf<S>(0));
  return chunk;
}

// The first rows of (rows, rank), in a block's shared memory: padded with zeros to R columns.
template <class Acc, int Rows, int R>
struct LeftTile {
  SharedArray<Acc, Rows * R> values;

  // A thread's share of factor * rows [first, last).
  SK_DEVICE void load(const void* left, int64_t rank, int64_t first, int64_t last, Acc factor, int thread) {
    const int count = static_cast<int>(last - first < Rows ? last - first : Rows) * R;
    for (int n = thread; n < count; n += kLanes * kWarps) {
      const bool inside = n % R < rank;
      const int64_t at = (first + n / R) * rank + n % R;
      values[n] = inside ? factor * static_cast<const Acc*>(left)[at] : Acc(0);
    }
  }
};

// Calls f(S, columns that a thread takes at a time, rank that is computed: at least that of the call).
template <class F>
inline void with_rank(const LowRankParams& p, std::initializer_list<Rows> matrices, F f) {
  with_dtype(p.dtype, [&](auto stored) {
    using S = decltype(stored);
    using One = std::integral_constant<int, 1>;
    using Many = std::integral_constant<int, kChunk<S>>;
    if (!fits_chunks<S>(p.rows, p.columns, matrices)) return f(stored, One{}, std::integral_constant<int, 16>{});
    if (p.rank <= 8) return f(stored, Many{}, std::integral_constant<int, 8>{});
    f(stored, Many{}, std::integral_constant<int, 16>{});
  });
}

}  // namespace seo_kernels::cuda
