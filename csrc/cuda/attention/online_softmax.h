// Softmax of scores that come panel by panel of keys, where they lie in registers as tensor cores leave them: a warp
// has 16 M rows of queries, and a row's four threads its columns. Serves the tile engines of all tiers: `block` is a
// whole block, or a part of one that numbers its threads from 0; first_row(thread) is the first of a warp's rows in the
// tile.
#pragma once

#include "cuda/sm80/pairs.h"
#include "cuda/sm80/widths.h"

namespace seo_kernels::cuda {

// A number for each of a thread's rows.
template <int M>
struct PerRow {
  float at[M][2];
};

// Of a thread's rows: maxima in the log2 domain, its share of the totals of weights, and, at the end, what sums of
// weighted values are to be multiplied with.
template <int M>
struct SoftmaxRows {
  float maximum[M][2], total[M][2], factor[M][2];
};

// Before the first panel.
template <int M>
SK_DEVICE inline SoftmaxRows<M> no_rows() {
  SoftmaxRows<M> rows{};
#pragma unroll
  for (int m = 0; m < M; ++m) rows.maximum[m][0] = rows.maximum[m][1] = kHidden<float>;
  return rows;
}

template <int M, class F>
SK_DEVICE inline void for_rows_of(F f) {
#pragma unroll
  for (int m = 0; m < M; ++m) {
#pragma unroll
    for (int h = 0; h < 2; ++h) f(m, h);
  }
}

// Over the threads that share a row.
template <int M, class Block, class F>
SK_DEVICE inline void combine_rows(Block& block, PerThread<PerRow<M>>& rows, F f) {
  block.template combine<4>(rows, [&](const PerRow<M>& a, const PerRow<M>& b) {
    PerRow<M> both;
    for_rows_of<M>([&](int m, int h) { both.at[m][h] = f(a.at[m][h], b.at[m][h]); });
    return both;
  });
}

// What a score, as score_products leaves it, is multiplied with to lie in the log2 domain: weights are then one
// multiply-add and one power of two. Positive, so that maxima stay maxima.
template <Scores kScores>
SK_DEVICE inline float log2_factor(const AttentionParams& p) {
  const float scale = static_cast<float>(p.scale) * static_cast<float>(kLog2E);
  if (kScores == Scores::kPlain) return scale;
  return p.modifies_scores() || !(scale > 0.0f) ? static_cast<float>(kLog2E) : scale;
}

// Products of panel `Panel` become scores, to be multiplied with log2_factor. words[row]: the pattern's bits, where it
// hides some.
template <Scores kScores, int Panel, int M, int N, class Words>
SK_DEVICE inline void score_products(const AttentionParams& p, const TilePair& pair, Words&& words, int thread,
                                     int first_row, Tile<M, N>& weights) {
  constexpr int first = Panel * kMmaColumns;
  const Scorer<float> scorer(p, pair.head());
  compute_anew_from(thread);  // places take registers
  compute_anew_from(first_row);
#pragma unroll
  for (int m = 0; m < M; ++m) {
    const Pairs<false> at(thread, first_row + 16 * m);
    if (kScores == Scores::kPlain) {
      // the scale is positive
    } else if (!p.modifies_scores()) {
      if (!(scorer.scale > 0.0f)) {
#pragma unroll
        for (int n = 0; n < kMmaColumns; ++n) {
#pragma unroll
          for (int e = 0; e < 4; ++e) weights.at[m][first + n].at[e] *= scorer.scale;
        }
      }
    } else {
      for_products<false, first>(
          m,
          [&](int n, int k) {
#pragma unroll
            for (int e = 0; e < 4; ++e) {
              float &x = weights.at[m][k].at[e], unused;
              const int query = at.query(n, e / 2, e % 2), key = at.key(n, e / 2, e % 2);
              x = scorer.score(pair, x, query, key, unused);
            }
          },
          weights);
    }
    if (!pair.hides()) continue;
    const MmaBits visible = Panel > 0 && pair.keys() == 0 ? 0 : visible_pairs(pair, words, at);
#pragma unroll
    for (int n = 0; n < kMmaColumns; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        if (!(visible >> (4 * n + e) & 1)) weights.at[m][first + n].at[e] = kHidden<float>;
      }
    }
  }
}

// Of panel `Panel`, weights that dropout keeps grow, and the others become zeros.
template <int Panel, int M, int N, class Block, class FirstRow>
SK_DEVICE inline void drop_weights(Block& block, const AttentionParams& p, const TilePair& pair, FirstRow first_row,
                                   PerThread<Tile<M, N>>& weights) {
  const float factor = static_cast<float>(1.0 / (1.0 - p.dropout_p));
#pragma unroll
  for (int m = 0; m < M; ++m) {
    PerThread<MmaBits> kept;
    kept_pairs<false>(block, p, pair, [&](int thread) { return first_row(thread) + 16 * m; }, kept);
    block.for_threads([&](int thread) {
#pragma unroll
      for (int n = 0; n < kMmaColumns; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          weights[thread].at[m][Panel * kMmaColumns + n].at[e] *= kept[thread] >> (4 * n + e) & 1 ? factor : 0.0f;
        }
      }
    });
  }
}

// Calls f(n) with n = 0 to Panels - 1 as constants.
template <int Panels, class F>
SK_DEVICE inline void for_panels_of(F f) {
  f(std::integral_constant<int, 0>{});
  if constexpr (Panels > 1) f(std::integral_constant<int, 1>{});
  static_assert(Panels <= 2);
}

// The products of panels side by side, one for each of `pairs`, become weights; calls shrink(thread, m, h, factor) for
// what was summed of a row before. All panels but the first may have no keys. words(n): what the pattern lets rows see
// of the n-th panel. Rows: SoftmaxRows, or what extends it.
template <Scores kScores, int Panels, int M, int N, class Block, class Words, class FirstRow, class Rows, class Shrink>
SK_DEVICE inline void weigh_products(Block& block, const AttentionParams& p, const TilePair (&pairs)[Panels],
                                     Words words, FirstRow first_row, PerThread<Tile<M, N>>& weights,
                                     PerThread<Rows>& rows, Shrink shrink) {
  static_assert(N == Panels * kMmaColumns);
  const float to_log2 = log2_factor<kScores>(p);
  PerThread<PerRow<M>> best;
  block.for_threads([&](int thread) {
    for_panels_of<Panels>([&](auto panel) {
      score_products<kScores, panel>(p, pairs[panel], words(panel), thread, first_row(thread), weights[thread]);
    });
    for_rows_of<M>([&](int m, int h) {
      float most = kHidden<float>;
#pragma unroll
      for (int n = 0; n < N; ++n) {
        const float (&x)[4] = weights[thread].at[m][n].at;
        most = larger(most, larger(x[2 * h], x[2 * h + 1]));
      }
      best[thread].at[m][h] = most;
    });
  });
  combine_rows(block, best, [](float a, float b) { return larger(a, b); });
  block.for_threads([&](int thread) {
    Rows& row = rows[thread];
    for_rows_of<M>([&](int m, int h) {
      const float before = row.maximum[m][h], maximum = larger(before, best[thread].at[m][h] * to_log2);
      const float shift = maximum == kHidden<float> ? 0.0f : maximum, factor = exp2_of(before - shift);
      float total = row.total[m][h] * factor;
#pragma unroll
      for (int n = 0; n < N; ++n) {
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          float& weight = weights[thread].at[m][n].at[2 * h + c];
          weight = exp2_of(weight * to_log2 - shift);
          total += weight;
        }
      }
      row.maximum[m][h] = maximum;
      row.total[m][h] = total;
      shrink(thread, m, h, factor);
    });
  });
  if constexpr (kScores != Scores::kPlain) {
    if (!p.dropout) return;
    for_panels_of<Panels>([&](auto panel) { drop_weights<panel>(block, p, pairs[panel], first_row, weights); });
  }
}

// Finds rows' factors and writes their lse.
template <int M, class Block, class FirstRow, class Rows>
SK_DEVICE inline void finish_rows(Block& block, const AttentionForwardParams& p, const TilePair& pair,
                                  FirstRow first_row, PerThread<Rows>& rows) {
  PerThread<PerRow<M>> totals;
  block.for_threads(
      [&](int thread) { for_rows_of<M>([&](int m, int h) { totals[thread].at[m][h] = rows[thread].total[m][h]; }); });
  combine_rows(block, totals, [](float a, float b) { return a + b; });
  block.for_threads([&](int thread) {
    for_rows_of<M>([&](int m, int h) {
      const Lane lane(thread);
      const int row = first_row(thread) + 16 * m + lane.row + 8 * h;
      float maximum = rows[thread].maximum[m][h], total = totals[thread].at[m][h], factor = 1.0f;
      if (p.sinks) {
        const float sink = static_cast<const float*>(p.sinks)[pair.head()] * static_cast<float>(kLog2E);
        add_sink(sink, maximum, total, factor);
      }
      rows[thread].factor[m][h] = total == 0.0f ? 0.0f : factor / total;
      if (lane.column != 0 || row >= pair.rows()) return;
      static_cast<float*>(p.lse)[pair.row_index(row)] =
          total == 0.0f ? kHidden<float> : (maximum + log2_of(total)) * static_cast<float>(kLn2);
    });
  });
}

}  // namespace seo_kernels::cuda
