// Backward's tile in registers: from products of queries and keys, and of output gradients and values, to weights and
// gradients of scores.
#pragma once

#include "cuda/sm80/band.h"

namespace seo_kernels::cuda {

// Of a tile's queries: lse in the log2 domain, and delta.
struct RowFacts {
  SharedArray<uint64_t, kTile> words;
  SharedArray<float, kTile> shift, delta;
};

// A barrier follows before they are read.
template <class Block>
SK_DEVICE void write_row_facts(Block& block, const AttentionBackwardParams& p, const TilePair& pair, RowFacts& facts) {
  block.for_threads([&](int thread) {
    compute_anew_from(thread);
    if (thread >= kTile) return;
    facts.shift[thread] = shift_of<float>(p, pair, thread);
    facts.delta[thread] = delta_of<float>(p, pair, thread);
  });
}
template <class Block>
SK_DEVICE void write_words(Block& block, const TilePair& pair, RowFacts& facts) {
  if (!pair.by_pattern()) return;
  block.for_threads([&](int thread) {
    if (thread < pair.rows()) facts.words[thread] = pair.word(thread);
  });
}

// to (pairs) += left . right: of a query and a key, or of an output's gradient and a value; plus what a relative table
// adds. left, right: the sides of the rows and columns of `to`. queries: the side that meets the table.
template <class S, int Width, Scores kScores, bool Turned, class Block, class Left, class Right, class Queries,
          class Of>
SK_DEVICE void add_pair_products(Block& block, const AttentionParams& p, const TilePair& pair,
                                 PerThread<Tile<1, kMmaColumns>>& to, Left& left, Right& right, Queries& queries,
                                 int width, const RelativeTable& table, const void* narrow, Of of) {
  const int steps = steps_of(width);
  bool band = false;
  if constexpr (kScores == Scores::kRelative) {
    band = table && !beyond_table(table, pair.distance());
    if (band) {
      stage_band<S, Width>(block, block.shared().band, table, narrow, pair.head(), pair.distance(), width);
      commit_copies(block);
    }
  }
  add_row_products<S, Width>(block, to, left, right, steps, [](int) { return 0; });
  if constexpr (kScores == Scores::kRelative) {
    if (!table) return;
    if (band) {
      wait_for_copies<0>(block);
      block.sync();                                        // the band is there, what was read askew before is read
      constexpr int at_once = Turned ? 2 : kBandProducts;  // turned, registers are short
      multiply_band<S, Width, at_once>(block, queries, block.shared().band, steps);
      block.sync();  // it is complete
    }
    block.for_threads([&](int thread) {
      const Pairs<Turned> at(thread, warp_row<1>(thread));
      if (band) return add_band(block.shared().band, at, to[thread]);
      add_band_end(p, pair, at, above_table(table, pair.distance()), of, to[thread]);
    });
  }
}

// Both, by rows of queries; without gradients these are zeros. The band of the keys' table comes last: dQ needs it once
// more.
template <class S, int Width, Scores kScores, class Block, class Memory>
SK_DEVICE void multiply_by_queries(Block& block, const AttentionBackwardParams& p, const TilePair& pair, Memory& key,
                                   Memory& value, bool by_gradient, PerThread<Tile<1, kMmaColumns>>& products,
                                   PerThread<Tile<1, kMmaColumns>>& gradients) {
  auto& shared = block.shared();
  block.for_threads([&](int thread) { gradients[thread] = {}; });
  if (by_gradient) {
    add_pair_products<S, Width, kScores, false>(block, p, pair, gradients, shared.grad_out, value, shared.grad_out,
                                                int(p.value_dim), p.relative_value, p.narrow_value,
                                                [](const RowEnds<float>& ends) { return ends.value; });
  }
  block.for_threads([&](int thread) { products[thread] = {}; });
  add_pair_products<S, Width, kScores, false>(block, p, pair, products, shared.query, key, shared.query, int(p.dim),
                                              p.relative_key, p.narrow_key,
                                              [](const RowEnds<float>& ends) { return ends.key; });
}

// products become weights, dropped out; gradients, of those weights, become gradients of bare products, short of the
// scale; or, not through softcap, those of what is added to scores.
template <Scores kScores, bool Turned, bool ThroughSoftcap = true>
SK_DEVICE inline void differentiate_pairs(const AttentionBackwardParams& p, const TilePair& pair, RowFacts& facts,
                                          const Pairs<Turned>& at, MmaBits kept, Tile<1, kMmaColumns>& products,
                                          Tile<1, kMmaColumns>& gradients) {
  const Scorer<float> scorer(p, pair.head());
  const float inverse_kept = static_cast<float>(1.0 / (1.0 - p.dropout_p));
  const bool hides = pair.hides();
  const MmaBits visible = hides ? visible_pairs(pair, facts.words, at) : ~MmaBits{0};
  float row_shift[2], row_delta[2];
  if constexpr (!Turned) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      row_shift[h] = facts.shift[at.query(0, h, 0)];
      row_delta[h] = facts.delta[at.query(0, h, 0)];
    }
  }
  int column = at.column;
  const auto differentiate = [&](int n, int k, auto simple, auto hidden) {
    Pack<float, 2> shifts, deltas;
    if constexpr (Turned) {
      compute_anew_from(column);  // facts of queries are read when they are needed
      shifts = facts.shift.template pack<2>(column + 8 * n);
      deltas = facts.delta.template pack<2>(column + 8 * n);
    }
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int bit = 4 * n + e;
      float &product = products.at[0][k].at[e], &gradient = gradients.at[0][k].at[e];
      const float shift = Turned ? shifts.at[e % 2] : row_shift[e / 2];
      const float delta = Turned ? deltas.at[e % 2] : row_delta[e / 2];
      float slope = 1.0f, x;
      if constexpr (decltype(simple)::value) {
        x = product * (scorer.scale * static_cast<float>(kLog2E));
      } else {
        const int query = Turned ? column + 8 * n + e % 2 : at.query(n, e / 2, e % 2);
        x = scorer.score(pair, product, query, at.key(n, e / 2, e % 2), slope) * static_cast<float>(kLog2E);
      }
      float weight = exp2_of(x - shift);
      if (decltype(hidden)::value && !(visible >> bit & 1)) weight = 0.0f;
      float factor = 1.0f;
      if (kScores != Scores::kPlain && p.dropout) factor = kept >> bit & 1 ? inverse_kept : 0.0f;
      product = weight * factor;
      gradient = weight * (gradient * factor - delta);
      if constexpr (ThroughSoftcap) gradient *= slope;
      // A hidden pair's gradient and slope may hold anything, NaN included: its weight of zero must win.
      if (decltype(hidden)::value && weight == 0.0f) gradient = 0.0f;
    }
  };
  using Yes = std::true_type;
  using No = std::false_type;
  if (kScores != Scores::kPlain && p.modifies_scores()) {
    for_products<false>(0, [&](int n, int k) { differentiate(n, k, No{}, Yes{}); }, products, gradients);
  } else if (hides) {
    for_products<true>(0, [&](int n, int k) { differentiate(n, k, Yes{}, Yes{}); }, products, gradients);
  } else {
    for_products<true>(0, [&](int n, int k) { differentiate(n, k, Yes{}, No{}); }, products, gradients);
  }
}

template <Scores kScores, bool Turned, bool ThroughSoftcap = true, class Block>
SK_DEVICE void differentiate(Block& block, const AttentionBackwardParams& p, const TilePair& pair,
                             PerThread<Tile<1, kMmaColumns>>& products, PerThread<Tile<1, kMmaColumns>>& gradients) {
  PerThread<MmaBits> kept;
  if constexpr (kScores != Scores::kPlain) {
    if (p.dropout) kept_pairs<Turned>(block, p, pair, [](int thread) { return warp_row<1>(thread); }, kept);
  }
  block.for_threads([&](int thread) {
    compute_anew_from(thread);
    const Pairs<Turned> at(thread, warp_row<1>(thread));
    differentiate_pairs<kScores, Turned, ThroughSoftcap>(p, pair, block.shared().facts, at, kept[thread],
                                                         products[thread], gradients[thread]);
  });
}

// Calls f with the width and the kind of scores to which something is added.
template <class F>
inline void with_changed_scores_and_width(const AttentionProblem& p, F f) {
  with_width(width_of(p), [&](auto width) {
    if (scores_of(p) == Scores::kRelative) return f(width, std::integral_constant<Scores, Scores::kRelative>{});
    f(width, std::integral_constant<Scores, Scores::kModified>{});
  });
}

}  // namespace seo_kernels::cuda
