// Dropout bits: Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").
#pragma once

#include <cstdint>

#include "semantics/host_device.h"

namespace seo_kernels {

constexpr uint32_t kPhiloxM0 = 0xD2511F53u, kPhiloxM1 = 0xCD9E8D57u;
constexpr uint32_t kPhiloxW0 = 0x9E3779B9u, kPhiloxW1 = 0xBB67AE85u;
constexpr int kPhiloxRounds = 10;

struct PhiloxWords {
  uint32_t word[4];
};

SK_HOST_DEVICE PhiloxWords philox(PhiloxWords counter, uint32_t key0, uint32_t key1) {
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const uint64_t product0 = uint64_t{kPhiloxM0} * counter.word[0];
    const uint64_t product1 = uint64_t{kPhiloxM1} * counter.word[2];
    counter =
        PhiloxWords{{static_cast<uint32_t>(product1 >> 32) ^ counter.word[1] ^ key0, static_cast<uint32_t>(product1),
                     static_cast<uint32_t>(product0 >> 32) ^ counter.word[3] ^ key1, static_cast<uint32_t>(product0)}};
    key0 += kPhiloxW0;
    key1 += kPhiloxW1;
  }
  return counter;
}

// The word that decides over attention weight (batch, head, query i, key j): word i % 4 of counter (j, i / 4, h, b).
SK_HOST_DEVICE uint32_t attention_dropout_word(uint64_t seed, uint32_t batch, uint32_t head, uint32_t query,
                                               uint32_t key) {
  const PhiloxWords words = philox(PhiloxWords{{key, query / 4, head, batch}}, static_cast<uint32_t>(seed),
                                   static_cast<uint32_t>(seed >> 32));
  return words.word[query % 4];
}

// A weight is kept iff its word is not below this.
SK_HOST_DEVICE uint32_t dropout_threshold(double dropout_p) { return static_cast<uint32_t>(dropout_p * 4294967296.0); }

}  // namespace seo_kernels
