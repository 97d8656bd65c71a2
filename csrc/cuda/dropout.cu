// dropout: random words, and the elements that they keep, in one read and one write.
#include "cuda/dropout.h"

#include "cuda/matrix_rows.h"
#include "semantics/dropout.h"

namespace seo_kernels::cuda {
namespace {

// A thread takes N neighbours of each word of some counters; N = 1: two, of any strides.
template <class S, int N>
struct DropoutKernel {
  using Acc = AccOf<S>;
  struct Shared {};
  static constexpr int kThreads = 256;
  static constexpr int kCounters = N == 1 ? 1 : N / 2, kNeighbours = 2 * kCounters, kWords = 4;
  static constexpr int kBlockThreads = kDropoutCounters / kCounters;  // threads that share a block of elements
  static_assert(kWords * kNeighbours <= 32);
  DropoutParams p;

  static int64_t blocks(int64_t elements) {
    return ceil_div(ceil_div(elements, kDropoutBlock) * kBlockThreads, kThreads);
  }

  template <class Block>
  SK_DEVICE void operator()(Block& block) const {
    block.for_threads([&](int thread) {
      const int64_t place = block.index() * kThreads + thread, elements = place / kBlockThreads;
      const int counter = static_cast<int>(place % kBlockThreads) * kCounters;
      if (elements * kDropoutBlock < p.pair.elements) drop(elements, counter);
    });
  }

 private:
  SK_DEVICE void drop(int64_t block, int counter) const {
    const int64_t first = block * kDropoutBlock + 2 * counter;
    if constexpr (N > 1) {
      if (first + (kWords - 1) * kStep + N <= p.pair.elements) {
        Chunk<S, N> chunks[kWords];
#pragma unroll
        for (int w = 0; w < kWords; ++w) chunks[w] = load_chunk<N>(static_cast<const S*>(p.input) + first + w * kStep);
        const uint32_t kept = kept_bits(block, counter);
#pragma unroll
        for (int w = 0; w < kWords; ++w) {
#pragma unroll
          for (int n = 0; n < N; ++n) {
            chunks[w].element[n] = dropped(chunks[w].element[n], kept >> (w * kNeighbours + n) & 1u);
          }
          store_chunk<N>(static_cast<S*>(p.out) + first + w * kStep, chunks[w]);
        }
        return;
      }
    }
    const uint32_t kept = kept_bits(block, counter);
#pragma unroll 1
    for (int bit = 0; bit < kWords * kNeighbours; ++bit) {
      const int64_t index = first + bit / kNeighbours * kStep + bit % kNeighbours;
      if (index >= p.pair.elements) continue;
      const PairOffsets at = offsets_of(p.pair, index);
      static_cast<S*>(p.out)[at.to] = dropped(static_cast<const S*>(p.input)[at.from], kept >> bit & 1u);
    }
  }

  SK_DEVICE S dropped(S element, uint32_t kept) const {
    return narrow<S>(kept ? static_cast<Acc>(widen(element)) * static_cast<Acc>(p.factor) : Acc(0));
  }

  // Bit kNeighbours * w + n: whether the n-th neighbour of word w is kept.
  SK_DEVICE uint32_t kept_bits(int64_t block, int counter) const {
    const uint64_t seed = static_cast<uint64_t>(*p.seed);
    const uint32_t limit = p.threshold >> 16;
    uint32_t kept = 0, tied = 0;
#pragma unroll
    for (int c = 0; c < kCounters; ++c) {
      const PhiloxWords words = element_dropout_words(seed, 0, block, static_cast<uint32_t>(counter + c));
#pragma unroll
      for (int n = 0; n < 2 * kWords; ++n) {
        const uint32_t upper = word_half(words.word[n / 2], n % 2);
        const int bit = n / 2 * kNeighbours + 2 * c + n % 2;
        kept |= static_cast<uint32_t>(upper >= limit) << bit;
        tied |= static_cast<uint32_t>(upper == limit) << bit;
      }
    }
#pragma unroll 1
    for (int bit = 0; tied != 0; ++bit, tied >>= 1) {  // mostly none
      const int within = bit / kNeighbours * static_cast<int>(kStep) + 2 * counter + bit % kNeighbours;
      if ((tied & 1u) && !keeps_tied_element(seed, block, within, p.threshold)) kept &= ~(1u << bit);
    }
    return kept;
  }

  static constexpr int64_t kStep = kDropoutBlock / kWords;  // between the elements of a counter's words
};

}  // namespace

void dropout(const DropoutParams& p, Stream stream) {
  with_dtype(p.dtype, [&](auto stored) {
    using S = decltype(stored);
    const auto run = [&](auto n) {
      using Kernel = DropoutKernel<S, decltype(n)::value>;
      launch(Kernel{p}, Kernel::blocks(p.pair.elements), stream, "dropout");
    };
    const bool one = p.pair.dims == 1 && p.pair.from[0] == 1 && p.pair.to[0] == 1;
    const bool aligned = (reinterpret_cast<uintptr_t>(p.input) | reinterpret_cast<uintptr_t>(p.out)) % 16 == 0;
    one&& aligned ? run(std::integral_constant<int, kChunk<S>>{}) : run(std::integral_constant<int, 1>{});
  });
}

}  // namespace seo_kernels::cuda
