// Attention forward: a block has a tile of queries and goes over the panels of keys that they visit, with an online
// softmax.
#include "cuda/attention/relative.h"
#include "cuda/attention/scores.h"
#include "cuda/attention/widths.h"

namespace seo_kernels::cuda {
namespace {

template <class S, int Width>
struct AttentionForward {
  using Acc = AccOf<S>;
  struct Shared : AttentionShared<Acc> {
    Ends<Acc> ends;  // of the weights, for relative values
    // Of rows: maxima in the log2 domain, before the panel at hand and after it by turns, and totals of weights. They
    // are looked at once per panel, and registers are short.
    SharedArray<Acc, 2 * kTile> maxima;
    SharedArray<Acc, kTile> totals;
  };
  static constexpr int kThreads = kTileThreads;
  static constexpr int kBlocksAtOnce = blocks_for(sizeof(Sums<Acc, Width>));
  AttentionForwardParams p;

  template <class Block>
  SK_DEVICE void operator()(Block& block) const {
    Shared& shared = block.shared();
    TilePair pair(p);
    const int64_t head = block.index() / p.plan.tiles;
    // causal tiles are the longer the later they are: those begin
    pair.set_queries(head / p.query_heads, head % p.query_heads, p.plan.tiles - 1 - block.index() % p.plan.tiles);
    PerThread<Sums<Acc, Width>> sums;
    block.for_threads([&](int thread) {
      sums[thread] = Sums<Acc, Width>{};
      if (thread >= kTile) return;
      shared.maxima[thread] = kHidden<Acc>;
      shared.totals[thread] = Acc(0);
    });
    if (p.relative_value) clear_ends(block, shared.ends);
    int maxima = 0;  // where those of the rows now lie
    pair.for_panels(0, static_cast<int>(p.plan.panels), [&] {
      add_panel(block, pair, maxima, sums);
      maxima = kTile - maxima;
    });
    if (p.relative_value) add_ends_weighted(block, sums, value_table(pair), shared.ends);
    block.sync();  // maxima and totals are complete
    finish(block, pair, maxima, sums);
  }

 private:
  SK_DEVICE HeadTable<Acc> value_table(const TilePair& pair) const {
    return {p.relative_value, pair.head(), p.value_dim};
  }

  template <class Block>
  SK_DEVICE void add_panel(Block& block, const TilePair& pair, int maxima, PerThread<Sums<Acc, Width>>& sums) const {
    Shared& shared = block.shared();
    PerThread<MicroTile<Acc>> tile;  // products, scores in the log2 domain, weights
    pair.find_words(block);
    score_products<S>(block, p, pair, tile);
    PerThread<RowValues<Acc>> best, sum;
    block.for_threads([&](int thread) { scores(pair, shared.words, thread, tile[thread], best[thread]); });
    block.template combine<kAcross>(best, [](const RowValues<Acc>& a, const RowValues<Acc>& b) {
      RowValues<Acc> most;
#pragma unroll
      for (int r = 0; r < kRows; ++r) most.at[r] = larger(a.at[r], b.at[r]);
      return most;
    });
    block.sync();  // what was multiplied is read
    block.for_threads([&](int thread) {
      const Place place(thread);
      RowValues<Acc> factor;  // of what was summed before
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const Acc before = shared.maxima[maxima + place.row + r], maximum = larger(before, best[thread].at[r]);
        const Acc shift = maximum == kHidden<Acc> ? Acc(0) : maximum;
        factor.at[r] = exp2_of(before - shift);
        sum[thread].at[r] = Acc(0);
#pragma unroll
        for (int c = 0; c < kColumns; ++c) {
          Acc& weight = tile[thread].at[r][c];
          weight = exp2_of(weight - shift);
          sum[thread].at[r] += weight;
        }
        if (place.column != 0) continue;
        shared.maxima[kTile - maxima + place.row + r] = maximum;
        shared.totals[place.row + r] = shared.totals[place.row + r] * factor.at[r];
      }
      if (p.dropout) drop(pair.kept(place), tile[thread]);
#pragma unroll
      for (int n = 0; n < Sums<Acc, Width>::kBlocks; ++n) {
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
#pragma unroll
          for (int c = 0; c < kColumns; ++c) sums[thread].at[n][r][c] *= factor.at[r];
        }
      }
      put_matrix<true>(shared.memory, place, tile[thread]);
      if (p.relative_value) scale_ends(shared.ends, place, factor);
    });
    add_across<Acc>(block, sum);
    block.for_threads([&](int thread) {
      const Place place(thread);
      if (place.column != 0) return;
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        shared.totals[place.row + r] = shared.totals[place.row + r] + sum[thread].at[r];
      }
    });
    add_weighted(block, sums, keys_of<S>(p.value, pair, p.value_dim));
    if (p.relative_value) {
      const HeadTable<Acc> table = value_table(pair);
      add_band_weighted(block, sums, table, pair.distance());
      add_to_ends(block, shared.ends, table.reach, pair.distance());
    }
  }

  template <class Words>
  SK_DEVICE void scores(const TilePair& pair, Words& words, int thread, MicroTile<Acc>& tile,
                        RowValues<Acc>& best) const {
    const Place place(thread);
    const PairBits visible = pair.visible(words, place);
    const Scorer<Acc> scorer(p, pair.head());
    with_simple_scores(p, [&](auto simple) {
      for_rows<decltype(simple)::value, Acc>(
          [&](int r, int at) {
#pragma unroll
            for (int c = 0; c < kColumns; ++c) {
              Acc& x = tile.at[at][c];
              if constexpr (decltype(simple)::value) {
                x *= scorer.scale * Acc(kLog2E);
              } else {
                Acc unused;
                x = scorer.score(pair, x, place.row + r, place.column + c, unused) * Acc(kLog2E);
              }
              if (!(visible >> (r * kColumns + c) & 1)) x = kHidden<Acc>;
            }
          },
          tile);
    });
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      best.at[r] = larger(larger(tile.at[r][0], tile.at[r][1]), larger(tile.at[r][2], tile.at[r][3]));
    }
  }

  SK_DEVICE void drop(PairBits kept, MicroTile<Acc>& weights) const {
    const Acc factor = static_cast<Acc>(1.0 / (1.0 - p.dropout_p));
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int c = 0; c < kColumns; ++c) weights.at[r][c] *= kept >> (r * kColumns + c) & 1 ? factor : Acc(0);
    }
  }

  template <class Block>
  SK_DEVICE void finish(Block& block, const TilePair& pair, int maxima, PerThread<Sums<Acc, Width>>& sums) const {
    Shared& shared = block.shared();
    block.for_threads([&](int thread) {
      const Place place(thread);
      S* out = static_cast<S*>(p.out.data) + pair.batch() * p.out.stride[0] + pair.head() * p.out.stride[1];
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const int row = place.row + r;
        if (row >= pair.rows()) break;
        Acc maximum = shared.maxima[maxima + row], total = shared.totals[row], factor = 1;
        if (p.sinks) add_sink(static_cast<const Acc*>(p.sinks)[pair.head()] * Acc(kLog2E), maximum, total, factor);
        if (place.column == 0) {
          static_cast<Acc*>(p.lse)[pair.row_index(row)] =
              total == Acc(0) ? kHidden<Acc> : (maximum + log2_of(total)) * Acc(kLn2);
        }
        factor = total == Acc(0) ? Acc(0) : factor / total;
#pragma unroll
        for (int n = 0; n < Sums<Acc, Width>::kBlocks; ++n) {
          Acc values[kColumns];
#pragma unroll
          for (int c = 0; c < kColumns; ++c) values[c] = sums[thread].at[n][r][c] * factor;
          store_columns<S>(out + (pair.row_begin() + row) * p.out.stride[2], p.out.stride[3], n * kTile + place.column,
                           p.value_dim, values, p.value_dim % kColumns == 0);
        }
      }
    });
  }
};

}  // namespace

void attention_forward(const AttentionForwardParams& p, Stream stream) {
  const int64_t tiles = p.batch * p.query_heads * p.plan.tiles;
  with_dtype(p.dtype, [&](auto stored) {
    with_width(p.value_dim, [&](auto width) {
      using Kernel = AttentionForward<decltype(stored), decltype(width)::value>;
      launch(Kernel{p}, tiles, stream, "attention_forward");
    });
  });
}

}  // namespace seo_kernels::cuda
