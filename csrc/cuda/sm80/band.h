// Relative tables before a tile of 64 queries and 64 keys: its 127 distances are a band of table rows, of which 16
// queries meet 80. A product of the queries with the band, read askew, is what the table adds to scores; weights
// written askew, times the band, are what it adds to outputs. Distances beyond the table read its first or last row.
#pragma once

#include "cuda/sm80/pairs.h"
#include "cuda/sm80/widths.h"

namespace seo_kernels::cuda {

constexpr int kBandRows = 2 * kTile;      // staged; entry e is of distance `distance` + e - 63
constexpr int kBandColumns = kTile + 16;  // of 16 queries
constexpr int kBandProducts = kBandColumns / 8;
constexpr int kProductLd = kBandColumns + 9;  // read askew, rows fall into different banks
constexpr int kWeightLd = kBandColumns + 8;   // the same for matrices of 8 rows

template <class S, int Width>
struct BandShared {
  SharedArray<S, kBandRows * Width> table;
  SharedArray<float, kTile * kProductLd> products;  // (query, column): key - query % 16 + 15
  SharedArray<S, kTile * kWeightLd> weights;        // the same; zeros wherever no key is
};
// What shared memory begins with: a base takes no room where there is nothing in it.
template <class S, int Width>
struct WithBand {
  BandShared<S, Width> band;
};
struct NoBand {};
template <class S, int Width, Scores kScores>
using BandOf = std::conditional_t<kScores == Scores::kRelative, WithBand<S, Width>, NoBand>;

SK_DEVICE inline int band_column(int query, int key) { return key - query % 16 + 15; }

// The first of the band's rows that a thread's warp meets.
SK_DEVICE inline int band_row(int thread) { return kTile - 16 - warp_row<1>(thread); }

// Whether all distances of a tile lie beyond a table, on one side.
SK_DEVICE inline bool below_table(const RelativeTable& table, int64_t distance) {
  return distance + kTile - 1 <= -table.max_distance;
}
SK_DEVICE inline bool above_table(const RelativeTable& table, int64_t distance) {
  return distance - kTile + 1 >= table.max_distance;
}
SK_DEVICE inline bool beyond_table(const RelativeTable& table, int64_t distance) {
  return below_table(table, distance) || above_table(table, distance);
}

// `narrow`: the table in the operands' type, rows `ld` apart.
template <class S, int Width, class Block, class Shared>
SK_DEVICE void stage_band(Block& block, Shared& band, const RelativeTable& table, const void* narrow, int64_t head,
                          int64_t distance, int width) {
  const int64_t ld = narrow_ld(width);
  const S* first = static_cast<const S*>(narrow) + (table.per_head ? head * table.rows() * ld : 0);
  const HeadRows<S> rows(first, ld, 1, ld);
  block.for_threads([&](int thread) {
    stage_tile<kBandRows, Width>(band.table, thread, rows, [&](int e) {
      return rows.row(relative_index(distance + e - (kTile - 1), table.max_distance));
    });
  });
}

// What the queries' products with the staged band are, AtOnce by AtOnce; a barrier comes before anybody else's are
// read.
template <class S, int Width, int AtOnce, class Block, class Left, class Shared>
SK_DEVICE void multiply_band(Block& block, Left& left, Shared& band, int steps) {
  static_assert(AtOnce % 2 == 0 && kBandProducts % AtOnce == 0);
#pragma unroll 1
  for (int first = 0; first < kBandProducts; first += AtOnce) {
    PerThread<Tile<1, AtOnce>> products;
    block.for_threads([&](int thread) { products[thread] = {}; });
    add_row_products<S, Width>(block, products, left, band.table, steps,
                               [&](int thread) { return band_row(thread) + 8 * first; });
    block.for_threads([&](int thread) {
      const Lane lane(thread);
#pragma unroll
      for (int n = 0; n < AtOnce; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int row = warp_row<1>(thread) + lane.row + e / 2 * 8;
          band.products[row * kProductLd + 8 * (first + n) + lane.column + e % 2] = products[thread].at[0][n].at[e];
        }
      }
    });
  }
}

template <bool Turned, class Shared>
SK_DEVICE inline void add_band(Shared& band, Pairs<Turned> at, Tile<1, kMmaColumns>& to) {
#pragma unroll
  for (int n = 0; n < kMmaColumns; ++n) {
    compute_anew_from(at.column);  // places in the band take registers
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int query = at.query(n, e / 2, e % 2), key = at.key(n, e / 2, e % 2);
      to.at[0][n].at[e] += band.products[query * kProductLd + band_column(query, key)];
    }
  }
}

// Adds what a table's end adds to all keys of a query. of(RowEnds): its products with the table's first and last row.
template <bool Turned, class Of>
SK_DEVICE inline void add_band_end(const AttentionParams& p, const TilePair& pair, Pairs<Turned> at, bool above, Of of,
                                   Tile<1, kMmaColumns>& to) {
  const RowEnds<float>* ends = static_cast<const RowEnds<float>*>(p.row_ends);
  const auto end_of = [&](int row) { return row < pair.rows() ? of(ends[pair.row_index(row)])[above] : 0.0f; };
  if constexpr (Turned) {
#pragma unroll
    for (int n = 0; n < kMmaColumns; ++n) {
      compute_anew_from(at.column);
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const float end = end_of(at.query(n, 0, c));
        to.at[0][n].at[c] += end;
        to.at[0][n].at[2 + c] += end;
      }
    }
  } else {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float end = end_of(at.query(0, h, 0));
#pragma unroll
      for (int n = 0; n < kMmaColumns; ++n) {
        to.at[0][n].at[2 * h] += end;
        to.at[0][n].at[2 * h + 1] += end;
      }
    }
  }
}

// Before the first weights are put there.
template <class Block, class Shared>
SK_DEVICE void clear_band_weights(Block& block, Shared& band) {
  block.for_threads([&](int thread) {
    for (int n = thread; n < kTile * kWeightLd / 2; n += kMmaThreads) band.weights.set_pair(2 * n, 0);
  });
}

// Of each warp's own rows.
template <class S, class Block, class Shared>
SK_DEVICE void put_band_weights(Block& block, PerThread<Tile<1, kMmaColumns>>& weights, Shared& band) {
  block.for_threads([&](int thread) {
    const Pairs<false> at(thread, warp_row<1>(thread));
#pragma unroll
    for (int n = 0; n < kMmaColumns; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int query = at.query(n, e / 2, e % 2), key = at.key(n, e / 2, e % 2);
        band.weights[query * kWeightLd + band_column(query, key)] = narrow<S>(weights[thread].at[0][n].at[e]);
      }
    }
  });
}

// to += weights . band: each warp's weights, as it puts them there.
template <class S, int Width, int N, class Block, class Shared>
SK_DEVICE void add_band_weights(Block& block, PerThread<Tile<1, N>>& to, PerThread<Tile<1, kMmaColumns>>& weights,
                                Shared& band, int steps) {
  block.sync_warp();  // those before are read
  put_band_weights<S>(block, weights, band);
  block.sync_warp();
  const auto read_weights = [&](int k, PerThread<Fragment>(&a)[1]) {
    read_matrices<false>(
        block, band.weights, [&](int thread) -> Fragment& { return a[0][thread]; },
        [&](int thread) {
          const int lane = thread % kWarp;
          return (warp_row<1>(thread) + lane % 16) * kWeightLd + kStep * k + lane / 16 * 8;
        });
  };
  add_weighted_rows<S, Width, kBandColumns / kStep>(block, to, read_weights, band.table, steps,
                                                    [](int thread) { return band_row(thread); });
}

// The gradient of a staged table: 64 of the band's rows at a time, `half` 0 or 1, of which each warp has 16. Where in
// the weights of queries 16 k and those after a warp's rows begin; past [0, 64] none of them meet.
SK_DEVICE inline int gradient_column(int thread, int half, int k) {
  return warp_row<1>(thread) + half * kTile + kStep * k - (kTile - kStep);
}

// to (16 rows of a warp) += weights, turned, . right, the right's rows being those of the queries.
template <class S, int Width, int N, class Block, class Shared, class Right>
SK_DEVICE void add_band_gradient(Block& block, PerThread<Tile<1, N>>& to, Shared& band, Right& right, int half,
                                 int steps) {
  const auto read_weights = [&](int k, PerThread<Fragment>(&a)[1]) {
    read_matrices<true>(
        block, band.weights, [&](int thread) -> Fragment& { return a[0][thread]; },
        [&](int thread) {
          const int lane = thread % kWarp, column = gradient_column(thread, half, k);
          const int there = column < 0 ? 0 : column > kTile ? kTile : column;
          return (kStep * k + lane % 8 + lane / 16 * 8) * kWeightLd + there + lane / 8 % 2 * 8;
        });
    block.for_threads([&](int thread) {
      const int column = gradient_column(thread, half, k);
      if (column < 0 || column > kTile) a[0][thread] = Fragment{};
    });
  };
  add_weighted_rows<S, Width, kTile / kStep>(block, to, read_weights, right, steps, [](int) { return 0; });
}

// Sums of rows' weights over the tiles that lie wholly below and above a table: its ends are added for them at once.
struct EndSums {
  float below[2] = {}, above[2] = {};

  SK_DEVICE void add(const Tile<1, kMmaColumns>& weights, bool is_above) {
    float sum[2] = {};
#pragma unroll
    for (int n = 0; n < kMmaColumns; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) sum[e / 2] += weights.at[0][n].at[e];
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) (is_above ? above[h] : below[h]) += sum[h];
  }

  // Of a tile that lies within a table, or across its ends, the pairs that are at them.
  SK_DEVICE void add_outside(const Tile<1, kMmaColumns>& weights, const Pairs<false>& at, int64_t distance,
                             int64_t reach) {
#pragma unroll
    for (int n = 0; n < kMmaColumns; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int64_t d = distance + at.key(n, e / 2, e % 2) - at.query(n, e / 2, e % 2);
        if (d >= reach) {
          above[e / 2] += weights.at[0][n].at[e];
        } else if (d <= -reach) {
          below[e / 2] += weights.at[0][n].at[e];
        }
      }
    }
  }
};

SK_DEVICE inline EndSums add_end_sums(const EndSums& a, const EndSums& b) {
  EndSums sum;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    sum.below[h] = a.below[h] + b.below[h];
    sum.above[h] = a.above[h] + b.above[h];
  }
  return sum;
}

// to += sums (of a row's four threads) . the table's first and last row
template <int N, class Block>
SK_DEVICE void add_end_rows(Block& block, PerThread<Tile<1, N>>& to, PerThread<EndSums>& sums,
                            const HeadTable<float>& table) {
  block.template combine<4>(sums, add_end_sums);
  block.for_threads([&](int thread) {
    const float *first = table.row(0), *last = table.row(2 * table.reach);
#pragma unroll
    for (int n = 0; n < N; ++n) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const int column = 8 * n + Lane(thread).column + c;
        if (column >= table.width) continue;
        const float low = first[column], high = last[column];
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          to[thread].at[0][n].at[2 * h + c] += sums[thread].below[h] * low + sums[thread].above[h] * high;
        }
      }
    }
  });
}

}  // namespace seo_kernels::cuda
