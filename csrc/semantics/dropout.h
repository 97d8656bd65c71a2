// Which elements of a tensor dropout keeps; those of attention's weights are in philox.h.
#pragma once

#include "semantics/philox.h"

namespace seo_kernels {

// Elements count in the order of the shape. A block of 128 neighbours has 16 counters: element 32 w + 2 n + h has half
// h (0: the low one) of word w of counter n. Vectors of words thus lie over vectors of elements without a
// transposition, and a thread with neighbours of every word draws no word in vain.
//
// An element has a number of 32 bits, and is kept iff that is not below dropout_threshold(p). Its upper half comes from
// stream 0, its lower half from stream 1, which is drawn only where the upper half equals the threshold's.
constexpr int kDropoutCounters = 16, kDropoutBlock = 8 * kDropoutCounters;

// Words of counter n of the block.
SK_HOST_DEVICE PhiloxWords element_dropout_words(uint64_t seed, uint32_t stream, uint64_t block, uint32_t n) {
  const uint64_t counter = block * kDropoutCounters + n;
  return philox(PhiloxWords{{static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32), stream, 0}},
                static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
}

SK_HOST_DEVICE uint32_t word_half(uint32_t word, int half) { return half ? word >> 16 : word & 0xFFFFu; }

// Whether an element is kept whose upper half is that of the threshold. `within`: its place in the block
SK_HOST_DEVICE bool keeps_tied_element(uint64_t seed, uint64_t block, int within, uint32_t threshold) {
  const PhiloxWords words = element_dropout_words(seed, 1, block, static_cast<uint32_t>(within % 32 / 2));
  return word_half(words.word[within / 32], within % 2) >= (threshold & 0xFFFFu);
}

// Whether dropout keeps the element.
SK_HOST_DEVICE bool keeps_element(uint64_t seed, uint64_t index, uint32_t threshold) {
  const uint64_t block = index / kDropoutBlock;
  const int within = static_cast<int>(index % kDropoutBlock);
  const PhiloxWords words = element_dropout_words(seed, 0, block, static_cast<uint32_t>(within % 32 / 2));
  const uint32_t upper = word_half(words.word[within / 32], within % 2);
  return upper == threshold >> 16 ? keeps_tied_element(seed, block, within, threshold) : upper > threshold >> 16;
}

}  // namespace seo_kernels
