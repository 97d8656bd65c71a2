// Attention forward on tensor cores: a block has a tile of queries and goes over the panels of keys that they visit,
// with an online softmax. Scores and weights stay in registers. Values are copied while scores are multiplied, and the
// next keys while values are.
#include "cuda/attention/online_softmax.h"
#include "cuda/attention/schedule.h"
#include "cuda/sm80/attention.h"
#include "cuda/sm80/band.h"

namespace seo_kernels::cuda::sm80 {
namespace {

template <class S, int Width, Scores kScores>
struct AttentionForwardMma {
  static constexpr bool kRelative = kScores == Scores::kRelative;
  static constexpr int kM = forward_row_products(Width, kScores), kTileRows = kTile * kM;
  static constexpr int kThreads = kMmaThreads, kBlocksAtOnce = blocks_at_once(Width, kScores);
  struct Shared {
    SharedArray<S, kTileRows * Width> query;
    SharedArray<S, kTile * Width> key, value;
    SharedArray<uint64_t, kTileRows> words;  // what the pattern lets each query see
    std::conditional_t<kRelative, BandShared<S, Width>, NoBand> band;
  };
  using Weights = Tile<kM, kMmaColumns>;
  using Sums = Tile<kM, Width / 8>;
  AttentionForwardParams p;
  Schedule schedule;

  struct Rows : SoftmaxRows<kM> {
    EndSums ends;  // where there is a table for values
  };

  template <class Block>
  SK_DEVICE void operator()(Block& block) const {
    Shared& shared = block.shared();
    const int64_t index = schedule.at(block.index()), tile = index % p.plan.tiles;
    const int64_t head = index / p.plan.tiles % p.query_heads, batch = index / p.plan.tiles / p.query_heads;
    TilePair pair(p), ahead(p);
    pair.set_queries(batch, head, tile);
    ahead.set_queries(batch, head, tile);
    PerThread<Sums> sums;
    PerThread<Rows> rows;
    block.for_threads([&](int thread) {
      sums[thread] = Sums{};
      rows[thread] = Rows{no_rows<kM>(), {}};
    });
    if constexpr (kRelative) clear_band_weights(block, shared.band);
    stage_run<kTileRows, Width>(block, shared.query, queries_of<S>(p.query, pair, p.dim));
    PanelCursor cursor(p.plan, head, tile);
    bool more = cursor.next(ahead);
    if (more) stage_run<kTile, Width>(block, shared.key, keys_of<S>(p.key, ahead, p.dim));
    commit_copies(block);
#pragma unroll 1
    while (more) {
      pair.set_keys(cursor.panel(), cursor.partial());
      pair.write_words(block);
      wait_for_copies<0>(block);
      block.sync();  // the keys are there, the values before are read
      stage_run<kTile, Width>(block, shared.value, keys_of<S>(p.value, pair, p.value_dim));
      PerThread<Weights> weights;
      multiply_scores(block, pair, weights);
      commit_copies(block);
      weigh(block, pair, weights, rows, sums);
      if constexpr (kRelative) stage_value_band(block, pair);
      wait_for_copies<0>(block);
      block.sync();  // the values are there, the keys are read
      more = cursor.next(ahead);
      if (more) stage_run<kTile, Width>(block, shared.key, keys_of<S>(p.key, ahead, p.dim));
      commit_copies(block);
      add_tile_weighted<S, Width>(block, sums, weights, shared.value, steps_of(static_cast<int>(p.value_dim)));
      if constexpr (kRelative) add_value_band(block, pair, weights, rows, sums);
    }
    wait_for_copies<0>(block);
    block.sync();  // the queries are read, or, before no keys at all, there
    finish(block, pair, rows, sums);
  }

 private:
  template <class Block>
  SK_DEVICE void multiply_scores(Block& block, const TilePair& pair, PerThread<Weights>& weights) const {
    Shared& shared = block.shared();
    const int steps = steps_of(static_cast<int>(p.dim));
    block.for_threads([&](int thread) { weights[thread] = Weights{}; });
    bool band = false;
    if constexpr (kRelative) {
      band = p.relative_key && !beyond_table(p.relative_key, pair.distance());
      if (band) {
        stage_band<S, Width>(block, shared.band, p.relative_key, p.narrow_key, pair.head(), pair.distance(), p.dim);
      }
    }
    commit_copies(block);
    add_row_products<S, Width>(block, weights, shared.query, shared.key, steps, [](int) { return 0; });
    if constexpr (kRelative) {
      if (!p.relative_key) return;
      if (band) {
        wait_for_copies<0>(block);
        block.sync();  // the band is there
        multiply_band<S, Width, kBandProducts>(block, shared.query, shared.band, steps);
        block.sync();  // it is read: that of the values comes
      }
      block.for_threads([&](int thread) {
        const Pairs<false> at(thread, warp_row<1>(thread));
        if (band) return add_band(shared.band, at, weights[thread]);
        add_band_end(
            p, pair, at, above_table(p.relative_key, pair.distance()),
            [](const RowEnds<float>& ends) { return ends.key; }, weights[thread]);
      });
    }
  }

  // Products become weights; what was summed before shrinks with the maxima.
  template <class Block>
  SK_DEVICE void weigh(Block& block, const TilePair& pair, PerThread<Weights>& weights, PerThread<Rows>& rows,
                       PerThread<Sums>& sums) const {
    weigh_products<kScores>(
        block, p, {pair}, [&](int) -> auto& { return block.shared().words; }, warp_row<kM>, weights, rows,
        [&](int thread, int m, int h, float factor) {
#pragma unroll
          for (int n = 0; n < Width / 8; ++n) {
#pragma unroll
            for (int c = 0; c < 2; ++c) sums[thread].at[m][n].at[2 * h + c] *= factor;
          }
          if constexpr (kRelative) {
            rows[thread].ends.below[h] *= factor;
            rows[thread].ends.above[h] *= factor;
          }
        });
  }

  template <class Block>
  SK_DEVICE void stage_value_band(Block& block, const TilePair& pair) const {
    if (!p.relative_value || beyond_table(p.relative_value, pair.distance())) return;
    stage_band<S, Width>(block, block.shared().band, p.relative_value, p.narrow_value, pair.head(), pair.distance(),
                         p.value_dim);
    commit_copies(block);
  }

  template <class Block>
  SK_DEVICE void add_value_band(Block& block, const TilePair& pair, PerThread<Weights>& weights, PerThread<Rows>& rows,
                                PerThread<Sums>& sums) const {
    if (!p.relative_value) return;
    if (!beyond_table(p.relative_value, pair.distance())) {
      const int steps = steps_of(static_cast<int>(p.value_dim));
      return add_band_weights<S, Width>(block, sums, weights, block.shared().band, steps);
    }
    const bool above = above_table(p.relative_value, pair.distance());
    block.for_threads([&](int thread) { rows[thread].ends.add(weights[thread], above); });
  }

  template <class Block>
  SK_DEVICE void finish(Block& block, const TilePair& pair, PerThread<Rows>& rows, PerThread<Sums>& sums) const {
    if constexpr (kRelative) {
      if (p.relative_value) {
        PerThread<EndSums> ends;
        block.for_threads([&](int thread) { ends[thread] = rows[thread].ends; });
        add_end_rows(block, sums, ends, HeadTable<float>(p.relative_value, pair.head(), p.value_dim));
      }
    }
    finish_rows<kM>(block, p, pair, warp_row<kM>, rows);
    S* out = static_cast<S*>(p.out.data) + pair.batch() * p.out.stride[0] + pair.head() * p.out.stride[1];
    store_tile<S, Width>(
        block, block.shared().query, sums, [&](int thread, int m, int h) { return rows[thread].factor[m][h]; }, out,
        p.out, pair.row_begin(), pair.row_begin() + pair.rows(), static_cast<int>(p.value_dim));
  }
};

template <class F>
void with_forward_kernel(const AttentionProblem& p, F f) {
  with_16_bits(p.dtype, [&](auto stored) {
    with_scores_and_width(p, [&](auto width, auto scores) {
      f(std::type_identity<AttentionForwardMma<decltype(stored), decltype(width)::value, decltype(scores)::value>>{});
    });
  });
}

}  // namespace

int64_t forward_tile_rows(const AttentionProblem& p) {
  int64_t rows = 0;
  with_forward_kernel(p, [&](auto kernel) { rows = decltype(kernel)::type::kTileRows; });
  return rows;
}

int64_t forward_shared_bytes(const AttentionProblem& p) {
  int64_t bytes = 0;
  with_forward_kernel(p, [&](auto kernel) { bytes = sizeof(typename decltype(kernel)::type::Shared); });
  return bytes;
}

void attention_forward(const AttentionForwardParams& p, Stream stream) {
  const Schedule schedule = schedule_of_queries(p);
  with_forward_kernel(p, [&](auto kernel) {
    launch(typename decltype(kernel)::type{p, schedule}, schedule.blocks(), stream, "attention_forward");
  });
}

}  // namespace seo_kernels::cuda::sm80
