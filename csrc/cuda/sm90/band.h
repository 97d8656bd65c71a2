// Relative tables before 64 queries and 64 keys, on warpgroups. Their 127 distances lie in two blocks of 64 rows of the
// table: the low one has those of keys that are not behind their query in the tile, the high one all others,
//
//   key <= query:  low block,  row key - query + 63
//   key >  query:  high block, row key - query - 1
//
// that is, row (key - query - 1) mod 64 of either. The high block of a panel is the low one of the next: each is
// multiplied with queries once, and one matrix of 64 columns, rotated by its rows, holds what two panels need of it.
// Weights that are rotated likewise are multiplied with both blocks, each time without the others' part.
//
// Blocks lie in a ring. Before panel P, queries from row 64 g of a tile on have blocks P + 1 - g and P + 2 - g.
#pragma once

#include "cuda/sm80/band.h"
#include "cuda/sm90/warpgroup.h"

namespace seo_kernels::cuda::sm90 {

constexpr int kBandBlocks = 3;  // of which two panels' worth of queries meet all

template <class S, int Width>
using BandRing = SwizzledArray<S, kBandBlocks * kTile * Width>;

SK_DEVICE inline int low_block(int64_t key_begin, int part) { return static_cast<int>(key_begin) / kTile + 1 - part; }

template <int Width>
SK_DEVICE inline int block_entry(int block) {
  return block % kBandBlocks * (kTile * Width);
}

// Whether any of the 128 queries of a tile, `distance` before a panel's first key, meets what lies within the table.
SK_DEVICE inline bool meets_band(const RelativeTable& table, int64_t distance) {
  return table && !below_table(table, distance) && !above_table(table, distance - kTile);
}

// Which blocks are in a ring: those of the panel that came last. Panels come in order.
struct BandFilling {
  int panel = -kBandBlocks, parity = 0;
};

// Brings the blocks of a head's tile of 128 queries that the ring lacks. Distances beyond the table have its first or
// last row. An arrival comes before they are read.
template <class S, int Width, class Group, class Memory>
SK_DEVICE inline void bring_blocks(Group& producer, Memory& ring, const RelativeTable& table, const void* narrow,
                                   int head, int64_t key_begin, int64_t distance, BandFilling& filling, int width) {
  constexpr int piece = 8, pieces = Width / piece, apart = kGroupThreads / pieces;
  const int panel = static_cast<int>(key_begin) / kTile, there = filling.panel + kBandBlocks - panel;
  filling.panel = panel;
  producer.for_threads([&](int thread) {
    compute_anew_from(thread);  // the producer has few registers
    const int ld = static_cast<int>(narrow_ld(width)), column = thread % pieces * piece;
    const bool inside = column < ld;
    const S* from = static_cast<const S*>(narrow) + (table.per_head ? head * table.rows() * ld : 0);
    if (inside) from += column;
#pragma unroll 1
    for (int n = there > 0 ? there : 0; n < kBandBlocks; ++n) {
      int to = block_entry<Width>(panel + n) + panel_place<kTile>(thread / pieces, column);
      const int64_t first = distance + (n - 1) * kTile - (kTile - 1);
#pragma unroll 1
      for (int row = thread / pieces; row < kTile; row += apart) {
        begin_copy(ring, to, from + relative_index(first + row, table.max_distance) * ld, inside);
        to += apart * kPanel;  // rows 8 apart have their pieces in the same order
      }
    }
  });
  commit_copies(producer);
  wait_for_copies<0>(producer);
  producer.show_to_engines();
}

// products (64 queries, 64 rows of a block) = queries . block, a batch
template <class S, int Width, class Group, class Left, class Ring>
SK_DEVICE inline void begin_block_products(Group& group, PerThread<Tile<1, kMmaColumns>>& products, Left& left,
                                           int left_entry, Ring& ring, int block) {
  const int entry = block_entry<Width>(block);
  begin_products(group, products);
#pragma unroll
  for (int k = 0; k < Width / kStep; ++k) {
    multiply_operands<S, Major::kInner, Major::kInner>(group, products, 0,
                                                       row_operand<kGroupRows>(left, left_entry, 0, k),
                                                       row_operand<kTile>(ring, entry, 0, k), k > 0);
  }
  commit_products(group);
}

SK_DEVICE inline int rotated(int query, int key) { return (key - query - 1) & (kTile - 1); }

// Where a block's products lie: as threads hold them, their entries fall into different banks.
SK_DEVICE inline int product_place(int query, int row) { return (query * kTile + query % 4 * 8 + query / 4 % 2) ^ row; }

// Of each warp's own queries, which read them alone.
template <class Group, class Memory>
SK_DEVICE inline void put_block_products(Group& group, PerThread<Tile<1, kMmaColumns>>& products, Memory& memory,
                                         int first) {
  group.sync_warp();  // those before are read
  group.for_threads([&](int thread) {
    compute_anew_from(thread);  // places take registers
    const Lane lane(thread);
#pragma unroll
    for (int n = 0; n < kMmaColumns; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int query = warp_row<1>(thread) + lane.row + e / 2 * 8;
        memory[first + product_place(query, 8 * n + lane.column + e % 2)] = products[thread].at[0][n].at[e];
      }
    }
  });
  group.sync_warp();
}

// to += the products of the low block, or of the high one, that belong to its keys.
template <class Memory>
SK_DEVICE inline void add_block_products(Memory& memory, int first, int thread, bool high, Tile<1, kMmaColumns>& to) {
  compute_anew_from(thread);
  const Pairs<false> at(thread, warp_row<1>(thread));
#pragma unroll
  for (int n = 0; n < kMmaColumns; ++n) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int query = at.query(n, e / 2, e % 2), key = at.key(n, e / 2, e % 2);
      if ((key > query) == high) to.at[0][n].at[e] += memory[first + product_place(query, rotated(query, key))];
    }
  }
}

// Rotated weights as left operands: of the low block, and of the high one.
using RotatedWeights = PerThread<Fragment>[kTile / kStep];

template <class S, class Group, class Memory>
SK_DEVICE inline void rotate_weights(Group& group, PerThread<Tile<1, kMmaColumns>>& weights, Memory& memory, int first,
                                     RotatedWeights& low, RotatedWeights& high) {
  group.sync_warp();  // those before are read
  group.for_threads([&](int thread) {
    compute_anew_from(thread);
    const Pairs<false> at(thread, warp_row<1>(thread));
#pragma unroll
    for (int n = 0; n < kMmaColumns; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int query = at.query(n, e / 2, e % 2), key = at.key(n, e / 2, e % 2);
        memory[first + swizzled<kTile>(query, rotated(query, key))] = narrow<S>(weights[thread].at[0][n].at[e]);
      }
    }
  });
  group.sync_warp();
#pragma unroll
  for (int k = 0; k < kTile / kStep; ++k) {
    read_matrices<false>(
        group, memory, [&](int thread) -> Fragment& { return low[k][thread]; },
        [&](int thread) {
          compute_anew_from(thread);
          const int lane = thread % kWarp;
          return first + swizzled<kTile>(warp_row<1>(thread) + lane % 16, kStep * k + lane / 16 * 8);
        });
  }
  group.for_threads([&](int thread) {
    compute_anew_from(thread);
    const Lane lane(thread);
#pragma unroll
    for (int k = 0; k < kTile / kStep; ++k) {
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        // of the two columns, those with query + column > 62 are the low block's
        const int sum = warp_row<1>(thread) + lane.row + n % 2 * 8 + kStep * k + lane.column + n / 2 * 8;
        const uint32_t both = low[k][thread].at[n];
        const uint32_t mask = sum > 62 ? ~0u : sum == 62 ? 0xFFFF0000u : 0u;
        low[k][thread].at[n] = both & mask;
        high[k][thread].at[n] = both & ~mask;
      }
    }
  });
}

// sums += weights . block, within a batch
template <class S, int Width, class Group, int N, class Ring>
SK_DEVICE inline void multiply_block(Group& group, PerThread<Tile<1, N>>& sums, RotatedWeights& weights, Ring& ring,
                                     int block) {
  const int entry = block_entry<Width>(block);
#pragma unroll
  for (int k = 0; k < kTile / kStep; ++k) {
    multiply_operands<S, Major::kOuter>(group, sums, 0, weights[k], column_operand<kTile>(ring, entry, 0, k), true);
  }
}

}  // namespace seo_kernels::cuda::sm90
