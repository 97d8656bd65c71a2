// What the roles of attention's kernels have in common: which panels of keys a tile of queries visits, some at a time,
// and what the pattern lets rows see of them.
#pragma once

#include <utility>

#include "cuda/sm80/pairs.h"
#include "cuda/sm90/warpgroup.h"

namespace seo_kernels::cuda::sm90 {

// Query heads that share a key head.
SK_DEVICE inline int group_of(const AttentionParams& p) {
  return static_cast<int>(p.query_heads) / static_cast<int>(p.key_heads);
}

// A tile of queries. Numbers of blocks, heads and tiles fit 32 bits, and their divisions stay short.
struct TilePlace {
  int batch, head, key_head, tile;

  // index: in (batch, head, tile)
  SK_DEVICE TilePlace(const AttentionParams& p, int64_t index) {
    const unsigned at = static_cast<unsigned>(index), tiles = static_cast<unsigned>(p.plan.tiles);
    const unsigned heads = static_cast<unsigned>(p.query_heads);
    tile = static_cast<int>(at % tiles);
    head = static_cast<int>(at / tiles % heads);
    batch = static_cast<int>(at / tiles / heads);
    key_head = head / group_of(p);
  }
};

// Panels that need not be neighbours; the last step's second may have no keys.
template <int Panels>
class Steps {
 public:
  TilePair pairs[Panels];

  SK_DEVICE Steps(const AttentionParams& p, const TilePlace& at) : Steps(p, at, std::make_index_sequence<Panels>()) {}

  // False after the last.
  SK_DEVICE bool next() {
    if (!cursor_.next(pairs[0])) return false;
#pragma unroll
    for (int n = 1; n < Panels; ++n) {
      if (!cursor_.next(pairs[n])) pairs[n].set_no_keys();
    }
    return true;
  }

 private:
  template <size_t... N>
  SK_DEVICE Steps(const AttentionParams& p, const TilePlace& at, std::index_sequence<N...>)
      : pairs{(static_cast<void>(N), TilePair(p))...}, cursor_(p.plan, at.head, at.tile) {
    (pairs[N].set_queries(at.batch, at.head, at.tile), ...);
  }

  PanelCursor cursor_;
};

// Of one panel, by rows of the tile.
template <class Memory>
struct PanelWords {
  Memory& memory;
  int first;
  SK_DEVICE decltype(auto) operator[](int row) { return memory[first + row]; }
};

// Each warp writes those of its own 16 rows from first_row(thread) on, a lane for each row of a panel.
template <int Panels, int TileRows, class Group, class Memory, class FirstRow>
SK_DEVICE inline void write_words(Group& group, const AttentionParams& p, const Steps<Panels>& steps, Memory& words,
                                  FirstRow first_row) {
  static_assert(Panels <= 2);
  const auto &first = steps.pairs[0], &last = steps.pairs[Panels - 1];
  if (!first.by_pattern() && !last.by_pattern()) return;
  group.sync_warp();  // those before are read
  group.for_threads([&](int thread) {
    const int lane = thread % kWarp, panel = lane / 16, row = first_row(thread) + lane % 16;
    const bool wanted = panel == 0 ? first.by_pattern() : Panels > 1 && last.by_pattern();
    if (!wanted || row >= first.rows()) return;
    const int64_t key_begin = panel == 0 ? first.key_begin() : last.key_begin();
    words[panel * TileRows + row] =
        pattern_bits(*p.plan.program, first.head(), first.row_begin() + row, key_begin, p.query_offset);
  });
  group.sync_warp();
}

// A group whose threads compute places anew: in a loop over tiles the compiler would keep them in registers.
template <class Group>
struct Anew {
  Group& group;
  SK_DEVICE void sync_warp() { group.sync_warp(); }
  template <class F>
  SK_DEVICE void for_threads(F f) {
    group.for_threads([&](int thread) {
      compute_anew_from(thread);
      f(thread);
    });
  }
};

// Part of an array, for store_tile.
template <class Memory>
struct PartOf {
  Memory& memory;
  int first;
  SK_DEVICE void set_pair(int n, uint32_t pair) { memory.set_pair(first + n, pair); }
  template <int K>
  SK_DEVICE auto pack(int n) {
    return memory.template pack<K>(first + n);
  }
};

}  // namespace seo_kernels::cuda::sm90
