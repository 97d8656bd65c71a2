// Relative tables in attention's backward on warpgroups. Before both tiles that a block's consumers have, the other
// side's tile has 191 distances that follow each other: a stripe of a table's rows, three of the blocks of band.h,
// which the producer copies at once and of which each consumer meets two. Rows at and beyond a table's ends are zeros
// there: those pairs take what attention_rows made of the ends.
#pragma once

#include "cuda/sm80/differentiate.h"
#include "cuda/sm90/attention_sources.h"
#include "cuda/sm90/band.h"

namespace seo_kernels::cuda::sm90 {

constexpr int kStripeRows = kBandBlocks * kTile;

struct RelativeRowFacts : RowFacts {
  SharedArray<float, 4 * kTile> ends;  // RowEnds of each query
};

// A barrier follows before they are read.
template <class Group>
SK_DEVICE void write_ends(Group& group, const AttentionParams& p, const TilePair& pair, RelativeRowFacts& facts) {
  group.for_threads([&](int row) {
    if (row >= kTile) return;
    Pack<float, 4> four{};
    if (row < pair.rows()) {
      const RowEnds<float> ends = static_cast<const RowEnds<float>*>(p.row_ends)[pair.row_index(row)];
      four = {{ends.key[0], ends.key[1], ends.value[0], ends.value[1]}};
    }
    facts.ends.template set_pack<4>(4 * row, four);
  });
}

template <bool OfValue>
SK_DEVICE inline const RelativeTable& table_of(const AttentionParams& p) {
  return OfValue ? p.relative_value : p.relative_key;
}

// Whether all distances of a tile lie inside (-R, R).
SK_DEVICE inline bool within_table(const RelativeTable& table, int64_t distance) {
  return distance - kTile + 1 > -table.max_distance && distance + kTile - 1 < table.max_distance;
}

// The boxes that stripes are copied in: rows inside (-R, R), so that all others are zeros.
struct StripeMaps {
  TensorMap key, value;
};
// Whether any of a stripe's distances, from `first` on, lies inside (-R, R).
SK_DEVICE inline bool meets_stripe(const RelativeTable& table, int64_t first) {
  return table && table.max_distance > 0 && first < table.max_distance && first + kStripeRows > 1 - table.max_distance;
}
// The row of the map that is of this distance.
SK_DEVICE inline int stripe_row(const RelativeTable& table, int64_t distance) {
  return static_cast<int>(distance + table.max_distance - 1);
}
inline CopySource stripe_source(const AttentionProblem& p, const RelativeTable& table, const void* narrow,
                                int64_t width) {
  const int64_t ld = narrow_ld(width), heads = table.per_head ? p.query_heads : 1, head = table.rows() * ld;
  return {static_cast<const uint16_t*>(narrow) + ld,
          p.dtype,
          {width, table.rows() - 2, heads, 1},
          {1, ld, head, heads * head}};
}

// What each consumer has of its own: products with its part of a stripe, and scores' gradients, rotated.
struct Rotated {
  SharedArray<float, kTile * kTile> products;
};
template <class S>
struct RotatedWithWeights : Rotated {
  SharedArray<S, kTile * kTile> weights;
};

// Rows of queries are a warp's own, or, turned, read by all.
template <bool Turned, class Group>
SK_DEVICE inline void sync_products(Group& group) {
  if constexpr (Turned) {
    group.sync();
  } else {
    group.sync_warp();
  }
}

// The products of a tile of queries, which begins at entry left_entry, with two blocks of a stripe. Of each block's, a
// query needs the rows that the other's leaves out: the high one's replace them.
template <class S, int Width, bool Turned, class Group, class Left, class Stripe>
SK_DEVICE void multiply_stripe(Group& group, Left& left, int left_entry, Stripe& stripe, int low_block, Rotated& to) {
  sync_products<Turned>(group);  // those before are read
#pragma unroll 1
  for (int high = 0; high < 2; ++high) {
    PerThread<Tile<1, kMmaColumns>> products;
    begin_block_products<S, Width>(group, products, left, left_entry, stripe, low_block + high);
    wait_for_products<0>(group, products);
    group.for_threads([&](int thread) {
      compute_anew_from(thread);  // places take registers
      const Lane lane(thread);
      const int end = high ? kTile - 1 : 2 * kTile;  // of query + row
#pragma unroll
      for (int n = 0; n < kMmaColumns; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int query = warp_row<1>(thread) + lane.row + e / 2 * 8, row = 8 * n + lane.column + e % 2;
          if (query + row >= end) continue;
          to.products[product_place(query, row)] = products[thread].at[0][n].at[e];
        }
      }
    });
  }
  sync_products<Turned>(group);
}

// Adds to a tile what the table does: products with a stripe inside (-R, R), and elsewhere the ends'.
template <bool OfValue, bool Turned>
SK_DEVICE inline void add_relative(const RelativeTable& table, int64_t distance, RelativeRowFacts& facts, Rotated& own,
                                   Pairs<Turned> at, Tile<1, kMmaColumns>& to) {
  const auto inside = [&](int query, int key) -> float {
    return own.products[product_place(query, rotated(query, key))];
  };
  if (within_table(table, distance)) {
#pragma unroll
    for (int n = 0; n < kMmaColumns; ++n) {
      compute_anew_from(at.column);  // places take registers
#pragma unroll
      for (int e = 0; e < 4; ++e) to.at[0][n].at[e] += inside(at.query(n, e / 2, e % 2), at.key(n, e / 2, e % 2));
    }
    return;
  }
  const auto near = [](int64_t d) { return static_cast<int>(d < -kTile ? -kTile : d > kTile ? kTile : d); };
  const int64_t reach = table.max_distance;
  const int above = near(reach - distance), below = near(-reach - distance);  // from there on, of key - query
  const auto ends_of = [&](int query) { return facts.ends.template pack<2>(4 * query + 2 * OfValue); };
  Pack<float, 2> ends[2];
  if constexpr (!Turned) {
#pragma unroll
    for (int h = 0; h < 2; ++h) ends[h] = ends_of(at.query(0, h, 0));
  }
#pragma unroll
  for (int n = 0; n < kMmaColumns; ++n) {
    compute_anew_from(at.column);
    if constexpr (Turned) {
#pragma unroll
      for (int c = 0; c < 2; ++c) ends[c] = ends_of(at.query(n, 0, c));
    }
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int query = at.query(n, e / 2, e % 2), key = at.key(n, e / 2, e % 2), d = key - query;
      const Pack<float, 2>& end = ends[Turned ? e % 2 : e / 2];
      to.at[0][n].at[e] += d >= above ? end.at[1] : d <= below ? end.at[0] : inside(query, key);
    }
  }
}

// Of a tile's weights, those at a table's ends and beyond.
template <class Group>
SK_DEVICE void add_ends(Group& group, const RelativeTable& table, int64_t distance,
                        PerThread<Tile<1, kMmaColumns>>& weights, PerThread<EndSums>& ends) {
  if (within_table(table, distance)) return;
  const bool beyond = beyond_table(table, distance), above = above_table(table, distance);
  group.for_threads([&](int thread) {
    if (beyond) return ends[thread].add(weights[thread], above);
    const Pairs<false> at(thread, warp_row<1>(thread));
    ends[thread].add_outside(weights[thread], at, distance, table.max_distance);
  });
}

}  // namespace seo_kernels::cuda::sm90
