// What a block of attention's backward on warpgroups makes, how many tiles it has in shared memory, and which it meets.
#pragma once

#include <cstdint>

#include "cuda/sm80/widths.h"
#include "cuda/sm90/attention_steps.h"

namespace seo_kernels::cuda::sm90 {

enum class Wanted { kQuery, kKey, kValue, kKeyAndValue };

// Whether a thread has registers for the sums of dK and dV at once; otherwise they take a launch each.
constexpr bool both_at_once(int width) { return width <= 64; }

// Tiles of the other side at once: queries for dK and dV, keys for dQ.
constexpr int met_stages(int width, Scores scores, Wanted wanted) {
  return scores == Scores::kRelative && width > 64 && wanted == Wanted::kQuery ? 1 : 2;
}

// Whether there is one tile at once of output gradients, or values: of wide heads two do not fit beside two tiles each
// that stay.
constexpr bool one_second(int width, Wanted wanted) { return width > 128 && wanted != Wanted::kValue; }

constexpr int kWidestWithTables = 128;  // heads: shared memory has no room for stripes of wider ones

// Stripes at once: of both tables where heads are narrow.
constexpr int stripe_stages(int width) { return width <= 64 ? 2 : 1; }

// A group that computes anew what follows from a thread's number: wide heads' sums leave no registers to keep it in.
template <class Group>
struct AnewByThread {
  Group& group;

  template <class F>
  SK_DEVICE void for_threads(F f) {
    group.for_threads([&](int thread) {
      compute_anew_from(thread);
      f(thread);
    });
  }
  template <int Lanes, int Distance, class T, class Combine>
  SK_DEVICE void combine(PerThread<T>& values, Combine combine) {
    group.template combine<Lanes, Distance>(values, combine);
  }
};

// A tile's weights, or gradients of scores, on the left of products.
using TileOperands = PerThread<Fragment>[kTile / kStep];

template <class S, class Group>
SK_DEVICE inline void narrow_pairs(Group& group, PerThread<Tile<1, kMmaColumns>>& pairs, TileOperands& operands) {
  group.for_threads([&](int thread) {
#pragma unroll
    for (int k = 0; k < kTile / kStep; ++k) operands[k][thread] = as_left<S>(pairs[thread], 0, k);
  });
  settle(operands);
}

// to += left . what is met
template <class S, int Width, class Group, class Memory>
SK_DEVICE inline void add_rows(Group& group, PerThread<Tile<1, Width / 8>>& to, TileOperands& left, Memory& met,
                               int stage) {
#pragma unroll
  for (int k = 0; k < kTile / kStep; ++k) {
    multiply_operands<S, Major::kOuter>(group, to, 0, left[k], column_operand<kTile>(met, stage * kTile * Width, 0, k),
                                        true);
  }
}

// The tiles that a panel of keys, or a tile of queries, meets: one after the other, numbered in ascending order.
template <bool OfKeys>
class Met {
 public:
  TilePair pair;

  // head: of keys or of queries; own: the panel, or the tile
  SK_DEVICE Met(const AttentionParams& p, int batch, int head, int own)
      : pair(p), cursor_(cursor(p, pair, batch, head, own)), key_head_(OfKeys ? head : head / group_of(p)) {}
  SK_DEVICE bool next() { return cursor_.next(pair); }
  SK_DEVICE int64_t number(const AttentionParams& p) const {
    if constexpr (OfKeys) {
      return pair.head() * p.plan.tiles + pair.tile();
    } else {
      return cursor_.panel();
    }
  }
  // Of the tile that is met, in its tensors.
  SK_DEVICE int row() const { return static_cast<int>(OfKeys ? pair.row_begin() : pair.key_begin()); }
  SK_DEVICE int head() const { return OfKeys ? static_cast<int>(pair.head()) : key_head_; }

 private:
  using Cursor = std::conditional_t<OfKeys, TileCursor, PanelCursor>;

  SK_DEVICE static Cursor cursor(const AttentionParams& p, TilePair& pair, int batch, int head, int own) {
    pair.set_queries(batch, OfKeys ? head * group_of(p) : head, own);
    if constexpr (OfKeys) {
      return TileCursor(p.plan, pair, own, head * group_of(p), (head + 1) * group_of(p));
    } else {
      return PanelCursor(p.plan, head, own);
    }
  }

  Cursor cursor_;
  int key_head_;
};

}  // namespace seo_kernels::cuda::sm90
