// Attention forward on tensor cores: a block has a tile of queries and goes over the panels of keys that they visit,
// with an online softmax. Scores and weights stay in registers. With two stages, the next keys and values are copied
// while those before are multiplied; with one, values while scores are multiplied, and the next keys while values are.
// Where nothing of a tile is hidden, all threads take one branch past the pattern's words and the mask: a plan's full
// panels, the middle of a window or of a causal row, are multiplied and weighed and no more.
#include "cuda/attention/online_softmax.h"
#include "cuda/attention/schedule.h"
#include "cuda/sm80/attention.h"
#include "cuda/sm80/band.h"

namespace seo_kernels::cuda::sm80 {
namespace {

template <class S, int Width, int kM, Scores kScores>
struct AttentionForwardMma {
  static constexpr bool kRelative = kScores == Scores::kRelative;
  static constexpr int kTileRows = kTile * kM, kStages = key_stages(Width, kScores);
  static constexpr int kThreads = kMmaThreads, kBlocksAtOnce = blocks_at_once(Width, kScores);
  struct Shared : BandOf<S, Width, kScores> {
    SharedArray<S, kTileRows * Width> query;
    SharedArray<S, kTile * Width> key[kStages], value[kStages];
    SharedArray<uint64_t, kTileRows> words;  // what the pattern lets each query see
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
    TilePair pair(p);  // while copies begin, that of the next panel
    pair.set_queries(batch, head, tile);
    PerThread<Sums> sums;
    PerThread<Rows> rows;
    block.for_threads([&](int thread) {
      sums[thread] = Sums{};
      rows[thread] = Rows{no_rows<kM>(), {}};
    });
    if constexpr (kRelative) clear_band_weights(block, shared.band);
    stage_run<kTileRows, Width>(block, shared.query, queries_of<S>(p.query, pair, p.dim));
    int key_head = static_cast<int>(pair.key_head());
    const auto stage = [&](auto& memory, const TensorView& view, int64_t width) {
      compute_anew_from(key_head);
      const HeadRows<S> rows(view, pair.batch(), key_head, width);
      stage_run<kTile, Width>(block, memory, RowRun<S>{rows, pair.key_begin(), pair.keys()});
    };
    const auto stage_keys = [&](auto& memory) { stage(memory, p.key, p.dim); };
    const auto stage_values = [&](auto& memory) { stage(memory, p.value, p.value_dim); };
    PanelCursor cursor(p.plan, head, tile);
    int now = 0;  // stage
    bool more = cursor.next(pair);
    if (more) stage_keys(shared.key[0]);
    if (more && kStages == 2) stage_values(shared.value[0]);
    commit_copies(block);
#pragma unroll 1
    while (more) {
      if constexpr (kStages == 2) {
        pair.find_words(block);
      } else {
        pair.write_words(block);
      }
      wait_for_copies<0>(block);
      block.sync();  // the keys are there, the values before are read
      if constexpr (kStages == 2) {
        const int panel = cursor.panel();
        const bool partial = cursor.partial();
        more = cursor.next(pair);
        if (more) stage_keys(shared.key[1 - now]);
        if (more) stage_values(shared.value[1 - now]);
        pair.set_keys(panel, partial);
      } else {
        stage_values(shared.value[0]);
      }
      PerThread<Weights> weights;
      multiply_scores(block, pair, shared.key[now], weights);
      weigh(block, pair, weights, rows, sums);
      PerThread<Lefts<kM>> lefts;  // half as many registers
      block.for_threads([&](int thread) { lefts[thread] = as_lefts<S>(weights[thread]); });
      const int64_t distance = pair.distance();
      if constexpr (kRelative) stage_value_band(block, pair);
      if constexpr (kStages == 1) {
        wait_for_copies<0>(block);
        block.sync();  // the values are there, the keys are read
        more = cursor.next(pair);
        if (more) stage_keys(shared.key[0]);
        commit_copies(block);
      }
      add_lefts_weighted<S, Width>(block, sums, lefts, shared.value[now], steps_of(static_cast<int>(p.value_dim)));
      if constexpr (kRelative) add_value_band(block, distance, weights, rows, sums);
      if constexpr (kStages == 2) {
        now = 1 - now;
        if (more) pair.set_keys(cursor.panel(), cursor.partial());
      }
    }
    wait_for_copies<0>(block);
    block.sync();  // the queries are read, or, before no keys at all, there
    finish(block, pair, rows, sums);
  }

 private:
  template <class Block, class Keys>
  SK_DEVICE void multiply_scores(Block& block, const TilePair& pair, Keys& keys, PerThread<Weights>& weights) const {
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
    add_row_products<S, Width>(block, weights, shared.query, keys, steps, [](int) { return 0; });
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
  SK_DEVICE void add_value_band(Block& block, int64_t distance, PerThread<Weights>& weights, PerThread<Rows>& rows,
                                PerThread<Sums>& sums) const {
    if (!p.relative_value) return;
    if (!beyond_table(p.relative_value, distance)) {
      const int steps = steps_of(static_cast<int>(p.value_dim));
      return add_band_weights<S, Width>(block, sums, weights, block.shared().band, steps);
    }
    const bool above = above_table(p.relative_value, distance);
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
      using S = std::remove_cvref_t<decltype(stored)>;
      constexpr int kWidth = decltype(width)::value, kM = forward_row_products(kWidth, decltype(scores)::value);
      using Kernel = AttentionForwardMma<S, kWidth, kM, decltype(scores)::value>;
      if constexpr (kM > 1 && kWidth > 64) {
        using Narrower = AttentionForwardMma<S, kWidth, 1, decltype(scores)::value>;
        if (!fit_at_once(Kernel::kBlocksAtOnce, sizeof(typename Kernel::Shared))) {
          return f(std::type_identity<Narrower>{});
        }
      }
      f(std::type_identity<Kernel>{});
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
