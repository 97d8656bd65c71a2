// Attention backward on tensor cores, queries' side: a block has a tile of queries and goes over the panels of keys
// that they visit, in order: dQ is its own. Gradients of what queries share have kernels of their own.
#include "cuda/attention/schedule.h"
#include "cuda/sm80/attention.h"
#include "cuda/sm80/differentiate.h"

namespace seo_kernels::cuda::sm80 {
namespace {

template <class S, int Width, Scores kScores>
struct AttentionQueryGradientsMma {
  static constexpr bool kRelative = kScores == Scores::kRelative;
  static constexpr int kThreads = kMmaThreads, kBlocksAtOnce = blocks_at_once(Width, kScores);
  static constexpr int kStages = key_stages(Width, kScores);
  struct Shared : BandOf<S, Width, kScores> {
    SharedArray<S, kTile * Width> query, grad_out, key[kStages], value[kStages];
    RowFacts facts;
  };
  using Pair = Tile<1, kMmaColumns>;
  using Sums = Tile<1, Width / 8>;
  AttentionBackwardParams p;
  Schedule schedule;

  template <class Block>
  SK_DEVICE void operator()(Block& block) const {
    Shared& shared = block.shared();
    const int64_t index = schedule.at(block.index()), tile = index % p.plan.tiles;
    const int64_t head = index / p.plan.tiles % p.query_heads, batch = index / p.plan.tiles / p.query_heads;
    TilePair pair(p);  // of the next panel, once weights and gradients are made
    pair.set_queries(batch, head, tile);
    PerThread<Sums> sums;
    PerThread<EndSums> ends;
    block.for_threads([&](int thread) {
      sums[thread] = Sums{};
      ends[thread] = EndSums{};
    });
    if constexpr (kRelative) clear_band_weights(block, shared.band);
    stage_run<kTile, Width>(block, shared.query, queries_of<S>(p.query, pair, p.dim));
    if (p.grad_out) stage_run<kTile, Width>(block, shared.grad_out, queries_of<S>(p.grad_out, pair, p.value_dim));
    write_row_facts(block, p, pair, shared.facts);
    int key_head = static_cast<int>(pair.key_head());
    const auto stage = [&](auto& memory, const TensorView& view, int64_t width) {
      compute_anew_from(key_head);
      const HeadRows<S> rows(view, pair.batch(), key_head, width);
      stage_run<kTile, Width>(block, memory, RowRun<S>{rows, pair.key_begin(), pair.keys()});
    };
    const auto stage_keys = [&](int to) { stage(shared.key[to], p.key, p.dim); };
    const auto stage_values = [&](int to) {
      if (p.grad_out) stage(shared.value[to], p.value, p.value_dim);
    };
    PanelCursor cursor(p.plan, head, tile);
    int now = 0;  // stage
    bool more = cursor.next(pair);
    if (more) {
      stage_values(0);
      stage_keys(0);
    }
    commit_copies(block);
#pragma unroll 1
    while (more) {
      if (kStages == 2 && pair.by_pattern()) block.sync();  // the words before are read
      write_words(block, pair, shared.facts);
      wait_for_copies<0>(block);
      block.sync();  // all is there, keys and words before are read
      const int panel = cursor.panel();
      const bool partial = cursor.partial();
      if constexpr (kStages == 2) {
        more = cursor.next(pair);
        if (more) {
          stage_values(1 - now);
          stage_keys(1 - now);
        }
        commit_copies(block);
        pair.set_keys(panel, partial);
      }
      PerThread<Pair> products, gradients;
      multiply_by_queries<S, Width, kScores>(block, p, pair, shared.key[now], shared.value[now], bool{p.grad_out},
                                             products, gradients);
      if constexpr (kStages == 1) {
        block.sync();  // the values are read
        more = cursor.next(pair);
        if (more) stage_values(0);
        commit_copies(block);
        pair.set_keys(panel, partial);
      }
      differentiate<kScores, false>(block, p, pair, products, gradients);
      add_tile_weighted<S, Width>(block, sums, gradients, shared.key[now], steps_of(int(p.dim)));
      if constexpr (kRelative) add_key_band(block, pair, gradients, ends, sums);
      if (more) pair.set_keys(cursor.panel(), cursor.partial());
      if constexpr (kStages == 1) {
        block.sync();  // the keys are read
        if (more) stage_keys(0);
        commit_copies(block);
      } else {
        now = 1 - now;
      }
    }
    wait_for_copies<0>(block);
    block.sync();  // the queries are read, or, before no keys at all, there
    if constexpr (kRelative) {
      if (p.relative_key) {
        add_end_rows(block, sums, ends, HeadTable<float>(p.relative_key, pair.head(), p.dim));
      }
    }
    const TensorView& to = p.grad_query;
    S* rows = static_cast<S*>(to.data) + pair.batch() * to.stride[0] + pair.head() * to.stride[1];
    const float scale = static_cast<float>(p.scale);
    store_tile<S, Width>(
        block, shared.query, sums, [&](int, int, int) { return scale; }, rows, to, pair.row_begin(),
        pair.row_begin() + pair.rows(), static_cast<int>(p.dim));
  }

 private:
  template <class Block>
  SK_DEVICE void add_key_band(Block& block, const TilePair& pair, PerThread<Pair>& gradients, PerThread<EndSums>& ends,
                              PerThread<Sums>& sums) const {
    if (!p.relative_key) return;
    if (!beyond_table(p.relative_key, pair.distance())) {
      return add_band_weights<S, Width>(block, sums, gradients, block.shared().band, steps_of(int(p.dim)));
    }
    const bool above = above_table(p.relative_key, pair.distance());
    block.for_threads([&](int thread) { ends[thread].add(gradients[thread], above); });
  }
};

template <class F>
void with_query_kernel(const AttentionProblem& p, F f) {
  with_16_bits(p.dtype, [&](auto stored) {
    with_scores_and_width(p, [&](auto width, auto scores) {
      using Kernel = AttentionQueryGradientsMma<decltype(stored), decltype(width)::value, decltype(scores)::value>;
      f(std::type_identity<Kernel>{});
    });
  });
}

}  // namespace

int64_t query_gradients_shared_bytes(const AttentionProblem& p) {
  int64_t bytes = 0;
  with_query_kernel(p, [&](auto kernel) { bytes = sizeof(typename decltype(kernel)::type::Shared); });
  return bytes;
}

void attention_query_gradients(const AttentionBackwardParams& p, Stream stream) {
  const Schedule schedule = schedule_of_queries(p);
  with_query_kernel(p, [&](auto kernel) {
    launch(typename decltype(kernel)::type{p, schedule}, schedule.blocks(), stream, "attention_backward: queries");
  });
}

}  // namespace seo_kernels::cuda::sm80
