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
  };
  static constexpr int kThreads = kTileThreads;
  static constexpr int kBlocksAtOnce = blocks_for(sizeof(Sums<Acc, Width>));
  AttentionForwardParams p;

  // What a thread has of its rows besides the sums of weighted values. Maxima are in the log2 domain.
  struct Softmax {
    Acc maximum[kRows], total[kRows];  // total: of the thread's own columns
  };

  template <class Block>
  SK_DEVICE void operator()(Block& block) const {
    TilePair pair(p);
    const int64_t head = block.index() / p.plan.tiles;
    // causal tiles are the longer the later they are: those begin
    pair.set_queries(head / p.query_heads, head % p.query_heads, p.plan.tiles - 1 - block.index() % p.plan.tiles);
    PerThread<Softmax> softmax;
    PerThread<Sums<Acc, Width>> sums;
    block.for_threads([&](int thread) {
      sums[thread] = Sums<Acc, Width>{};
      for (int r = 0; r < kRows; ++r) {
        softmax[thread].maximum[r] = kHidden<Acc>;
        softmax[thread].total[r] = Acc(0);
      }
    });
    if (p.relative_value) clear_ends(block, block.shared().ends);
    pair.for_runs([&](const PanelRun run) {
#pragma unroll 1
      for (int panel = run.begin; panel < run.end; ++panel) {
        if (pair.set_keys(panel, run.partial)) add_panel(block, pair, softmax, sums);
      }
    });
    if (p.relative_value) add_ends_weighted(block, sums, value_table(pair), block.shared().ends);
    finish(block, pair, softmax, sums);
  }

 private:
  SK_DEVICE HeadTable<Acc> value_table(const TilePair& pair) const {
    return {p.relative_value, pair.head(), p.value_dim};
  }

  template <class Block>
  SK_DEVICE void add_panel(Block& block, const TilePair& pair, PerThread<Softmax>& softmax,
                           PerThread<Sums<Acc, Width>>& sums) const {
    PerThread<MicroTile<Acc>> tile;  // products, scores in the log2 domain, weights
    pair.find_words(block);
    score_products<S>(block, p, pair, tile);
    PerThread<RowValues<Acc>> best;
    block.for_threads([&](int thread) { scores(pair, block.shared().words, thread, tile[thread], best[thread]); });
    block.template combine<kAcross>(best, [](const RowValues<Acc>& a, const RowValues<Acc>& b) {
      RowValues<Acc> most;
#pragma unroll
      for (int r = 0; r < kRows; ++r) most.at[r] = larger(a.at[r], b.at[r]);
      return most;
    });
    block.sync();  // what was multiplied is read
    block.for_threads([&](int thread) {
      const Place place(thread);
      const RowValues<Acc> factor = weigh(tile[thread], best[thread], softmax[thread]);
      if (p.dropout) drop(pair.kept(place), tile[thread]);
#pragma unroll
      for (int n = 0; n < Sums<Acc, Width>::kBlocks; ++n) {
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
#pragma unroll
          for (int c = 0; c < kColumns; ++c) sums[thread].at[n][r][c] *= factor.at[r];
        }
      }
      put_matrix<true>(block.shared().memory, place, tile[thread]);
      if (p.relative_value) scale_ends(block.shared().ends, place, factor);
    });
    add_weighted(block, sums, keys_of<S>(p.value, pair, p.value_dim));
    if (p.relative_value) {
      const HeadTable<Acc> table = value_table(pair);
      add_band_weighted(block, sums, table, pair.distance());
      add_to_ends(block, block.shared().ends, table.reach, pair.distance());
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

  // Scores become weights relative to the running maxima; returns what earlier sums are to be multiplied by.
  SK_DEVICE static RowValues<Acc> weigh(MicroTile<Acc>& tile, const RowValues<Acc>& best, Softmax& softmax) {
    RowValues<Acc> factor;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const Acc maximum = larger(softmax.maximum[r], best.at[r]);
      const Acc shift = maximum == kHidden<Acc> ? Acc(0) : maximum;
      factor.at[r] = exp2_of(softmax.maximum[r] - shift);
      softmax.maximum[r] = maximum;
      Acc total = softmax.total[r] * factor.at[r];
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
        tile.at[r][c] = exp2_of(tile.at[r][c] - shift);
        total += tile.at[r][c];
      }
      softmax.total[r] = total;
    }
    return factor;
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
  SK_DEVICE void finish(Block& block, const TilePair& pair, PerThread<Softmax>& softmax,
                        PerThread<Sums<Acc, Width>>& sums) const {
    PerThread<RowValues<Acc>> totals;
    block.for_threads([&](int thread) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) totals[thread].at[r] = softmax[thread].total[r];
    });
    add_across<Acc>(block, totals);
    block.for_threads([&](int thread) {
      const Place place(thread);
      S* out = static_cast<S*>(p.out.data) + pair.batch() * p.out.stride[0] + pair.head() * p.out.stride[1];
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const int row = place.row + r;
        if (row >= pair.rows()) break;
        Acc maximum = softmax[thread].maximum[r], total = totals[thread].at[r], factor = 1;
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

  // The sink's logit joins the maximum and the total, and nothing else; sums are to be multiplied by the factor.
  SK_DEVICE static void add_sink(Acc sink, Acc& maximum, Acc& total, Acc& factor) {
    if (sink > maximum) {
      factor = exp2_of(maximum - sink);
      maximum = sink;
      total = total * factor + Acc(1);
    } else if (maximum != kHidden<Acc>) {
      total += exp2_of(sink - maximum);
    }
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
