// Slots: blocks that go over tiles of queries of one head, and add up what these share.
#pragma once

#include "cuda/attention/tile_pair.h"

namespace seo_kernels::cuda {

// Calls f() for each of the slot's tiles, to which the pair is then set.
template <class F>
SK_DEVICE inline void for_slot_tiles(const AttentionBackwardParams& p, int64_t slot, TilePair& pair, F f) {
#pragma unroll 1
  for (int64_t unit = slot % p.parts; unit < p.batch * p.plan.tiles; unit += p.parts) {
    // every part gets short and long tiles, and begins with its longest causal one
    pair.set_queries(unit % p.batch, slot / p.parts, p.plan.tiles - 1 - unit / p.batch);
    f();
  }
}

}  // namespace seo_kernels::cuda
