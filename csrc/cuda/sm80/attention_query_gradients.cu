// Attention backward on tensor cores, queries' side: a block has a tile of queries and goes over the panels of keys
// that they visit, in order: dQ is its own. Gradients of what queries share come from the simt kernels.
#include "cuda/attention/schedule.h"
#include "cuda/sm80/attention.h"
#include "cuda/sm80/differentiate.h"

namespace seo_kernels::cuda::sm80 {
namespace {

template <class S, int Width, Scores kScores>
struct AttentionQueryGradientsMma {
  static constexpr bool kRelative = kScores == Scores::kRelative;
  static constexpr int kThreads = kMmaThreads, kBlocksAtOnce = blocks_at_once(Width, kScores);
  struct Shared {
    SharedArray<S, kTile * Width> query, grad_out, key, value;
    RowFacts facts;
    std::conditional_t<kRelative, BandShared<S, Width>, NoBand> band;
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
    TilePair pair(p), ahead(p);
    pair.set_queries(batch, head, tile);
    ahead.set_queries(batch, head, tile);
    PerThread<Sums> sums;
    PerThread<EndSums> ends;
    block.for_threads([&](int thread) {
      sums[thread] = Sums{};
      ends[thread] = EndSums{};
    });
    if constexpr (kRelative) clear_band_weights(block, shared.band);
    stage_run<kTile, Width>(block, shared.query, queries_of<S>(p.query, pair, p.dim));
    if (p.grad_out) stage_run<kTile, Width>(block, shared.grad_out, queries_of<S>(p.grad_out, pair, p.value_dim));
    PanelCursor cursor(p.plan, head, tile);
    bool more = cursor.next(ahead);
    if (more) {
      stage_values(block, ahead);
      stage_run<kTile, Width>(block, shared.key, keys_of<S>(p.key, ahead, p.dim));
    }
    commit_copies(block);
#pragma unroll 1
    while (more) {
      pair.set_keys(cursor.panel(), cursor.partial());
      write_row_facts(block, p, pair, shared.facts);
      wait_for_copies<0>(block);
      block.sync();  // all is there, keys and facts before are read
      PerThread<Pair> products, gradients;
      multiply(block, pair, products, gradients);
      more = cursor.next(ahead);
      block.sync();  // the values are read
      if (more) stage_values(block, ahead);
      commit_copies(block);
      differentiate<kScores, false>(block, p, pair, products, gradients);
      add_tile_weighted<S, Width>(block, sums, gradients, shared.key, steps_of(int(p.dim)));
      if constexpr (kRelative) add_key_band(block, pair, gradients, ends, sums);
      block.sync();  // the keys are read
      if (more) stage_run<kTile, Width>(block, shared.key, keys_of<S>(p.key, ahead, p.dim));
      commit_copies(block);
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
  SK_DEVICE void stage_values(Block& block, const TilePair& pair) const {
    if (!p.grad_out) return;
    stage_run<kTile, Width>(block, block.shared().value, keys_of<S>(p.value, pair, p.value_dim));
  }

  // The band of the keys' table comes last: dQ needs it once more.
  template <class Block>
  SK_DEVICE void multiply(Block& block, const TilePair& pair, PerThread<Pair>& products,
                          PerThread<Pair>& gradients) const {
    Shared& shared = block.shared();
    block.for_threads([&](int thread) { gradients[thread] = Pair{}; });
    if (p.grad_out) {
      add_pair_products<S, Width, kScores, false>(block, p, pair, gradients, shared.grad_out, shared.value,
                                                  shared.grad_out, int(p.value_dim), p.relative_value, p.narrow_value,
                                                  [](const RowEnds<float>& ends) { return ends.value; });
    }
    block.for_threads([&](int thread) { products[thread] = Pair{}; });
    add_pair_products<S, Width, kScores, false>(block, p, pair, products, shared.query, shared.key, shared.query,
                                                int(p.dim), p.relative_key, p.narrow_key,
                                                [](const RowEnds<float>& ends) { return ends.key; });
  }

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
