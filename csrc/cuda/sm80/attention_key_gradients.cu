// Attention backward on tensor cores, keys' side: a block has a panel of keys of one (batch, key head) and goes over
// the tiles of queries that visit it, of all query heads that share the key head. Scores and their gradients are made
// turned, rows of keys, so that they feed the sums for values and keys out of registers.
#include "cuda/attention/schedule.h"
#include "cuda/sm80/attention.h"
#include "cuda/sm80/differentiate.h"

namespace seo_kernels::cuda::sm80 {
namespace {

// Both: dK and dV at once; otherwise one of them, whichever is asked for.
template <class S, int Width, Scores kScores>
struct AttentionKeyGradientsMma {
  static constexpr bool kRelative = kScores == Scores::kRelative, kBoth = both_key_gradients(Width, kScores);
  static constexpr int kThreads = kMmaThreads, kBlocksAtOnce = blocks_at_once(Width, kScores);
  struct Shared : BandOf<S, Width, kScores> {
    SharedArray<S, kTile * Width> key, value, query, grad_out;
    RowFacts facts;
  };
  using Pair = Tile<1, kMmaColumns>;
  using Sums = Tile<1, Width / 8>;
  AttentionBackwardParams p;
  Schedule schedule;

  struct PanelPlace {
    int panel, batch, key_head;
  };

  template <class Block>
  SK_DEVICE void operator()(Block& block) const {
    Shared& shared = block.shared();
    PerThread<Sums> value_sums, key_sums;
    auto& keys = kBoth ? key_sums : value_sums;
    block.for_threads([&](int thread) { value_sums[thread] = key_sums[thread] = Sums{}; });
    TilePair pair(p);  // the next one's, once weights and gradients are made
    const PanelPlace here = place(block.index());
    pair.set_queries(here.batch, 0, 0);
    TileCursor cursor(p.plan, pair, here.panel, here.key_head * p.group(), (here.key_head + 1) * p.group());
    bool more = cursor.next(pair);
    if (more) {
      stage_run<kTile, Width>(block, shared.key, keys_of<S>(p.key, pair, p.dim));
      if (by_gradient()) stage_run<kTile, Width>(block, shared.value, keys_of<S>(p.value, pair, p.value_dim));
      stage_grad_out(block, pair);
      stage_run<kTile, Width>(block, shared.query, queries_of<S>(p.query, pair, p.dim));
    }
    commit_copies(block);
#pragma unroll 1
    while (more) {
      write_row_facts(block, p, pair, shared.facts);
      write_words(block, pair, shared.facts);
      wait_for_copies<0>(block);
      block.sync();  // all is there, queries and facts before are read
      PerThread<Pair> products, gradients;
      multiply(block, pair, products, gradients);
      differentiate<kScores, true>(block, p, pair, products, gradients);
      PerThread<Lefts<1>> weights, gradients_of_scores;  // half as many registers
      block.for_threads([&](int thread) {
        weights[thread] = as_lefts<S>(products[thread]);
        gradients_of_scores[thread] = as_lefts<S>(gradients[thread]);
      });
      if (p.grad_value && p.grad_out) {
        add_lefts_weighted<S, Width>(block, value_sums, weights, shared.grad_out, steps_of(int(p.value_dim)));
      }
      more = cursor.next(pair);
      block.sync();  // the output's gradients are read
      if (more) stage_grad_out(block, pair);
      commit_copies(block);
      if (p.grad_key)
        add_lefts_weighted<S, Width>(block, keys, gradients_of_scores, shared.query, steps_of(int(p.dim)));
      block.sync();  // the queries are read
      if (more) stage_run<kTile, Width>(block, shared.query, queries_of<S>(p.query, pair, p.dim));
      commit_copies(block);
    }
    wait_for_copies<0>(block);
    block.sync();                                // keys and values are read
    const PanelPlace at = place(block.index());  // anew: registers were worth more
    if (p.grad_value) store(block, shared.value, p.grad_value, at, p.value_dim, value_sums, 1.0f);
    if (p.grad_key) store(block, shared.key, p.grad_key, at, p.dim, keys, static_cast<float>(p.scale));
  }

 private:
  SK_DEVICE PanelPlace place(int64_t block) const {
    int index = static_cast<int>(block);
    compute_anew_from(index);
    index = static_cast<int>(schedule.at(index));
    const int panels = static_cast<int>(p.plan.panels), heads = static_cast<int>(p.key_heads);
    return {index % panels, index / panels / heads, index / panels % heads};
  }
  // Whether gradients of weights are asked for, and are not zero.
  SK_DEVICE bool by_gradient() const { return p.grad_key && p.grad_out; }

  template <class Block>
  SK_DEVICE void stage_grad_out(Block& block, const TilePair& pair) const {
    if (!p.grad_out) return;
    stage_run<kTile, Width>(block, block.shared().grad_out, queries_of<S>(p.grad_out, pair, p.value_dim));
  }

  template <class Block>
  SK_DEVICE void multiply(Block& block, const TilePair& pair, PerThread<Pair>& products,
                          PerThread<Pair>& gradients) const {
    Shared& shared = block.shared();
    block.for_threads([&](int thread) { products[thread] = Pair{}; });
    add_pair_products<S, Width, kScores, true>(block, p, pair, products, shared.key, shared.query, shared.query,
                                               int(p.dim), p.relative_key, p.narrow_key,
                                               [](const RowEnds<float>& ends) { return ends.key; });
    block.for_threads([&](int thread) { gradients[thread] = Pair{}; });
    if (!by_gradient()) return;
    add_pair_products<S, Width, kScores, true>(block, p, pair, gradients, shared.value, shared.grad_out,
                                               shared.grad_out, int(p.value_dim), p.relative_value, p.narrow_value,
                                               [](const RowEnds<float>& ends) { return ends.value; });
  }

  template <class Block, class Memory>
  SK_DEVICE void store(Block& block, Memory& memory, const TensorView& to, const PanelPlace& at, int64_t width,
                       PerThread<Sums>& sums, float factor) const {
    S* rows = static_cast<S*>(to.data) + at.batch * to.stride[0] + at.key_head * to.stride[1];
    const int64_t first = int64_t{at.panel} * kTile;
    store_tile<S, Width>(
        block, memory, sums, [&](int, int, int) { return factor; }, rows, to, first, p.key_length,
        static_cast<int>(width));
  }
};

template <class F>
void with_key_kernel(const AttentionProblem& p, F f) {
  with_16_bits(p.dtype, [&](auto stored) {
    with_scores_and_width(p, [&](auto width, auto scores) {
      using Kernel = AttentionKeyGradientsMma<decltype(stored), decltype(width)::value, decltype(scores)::value>;
      f(std::type_identity<Kernel>{});
    });
  });
}

}  // namespace

int64_t key_gradients_shared_bytes(const AttentionProblem& p) {
  int64_t bytes = 0;
  with_key_kernel(p, [&](auto kernel) { bytes = sizeof(typename decltype(kernel)::type::Shared); });
  return bytes;
}

void attention_key_gradients(const AttentionBackwardParams& p, Stream stream) {
  const Schedule schedule = schedule_of_keys(p);
  with_key_kernel(p, [&](auto kernel) {
    using Kernel = typename decltype(kernel)::type;
    if (Kernel::kBoth) return launch(Kernel{p, schedule}, schedule.blocks(), stream, "attention_backward: keys");
    for (const bool of_keys : {false, true}) {
      AttentionBackwardParams one = p;
      (of_keys ? one.grad_value : one.grad_key) = {};
      if (one.grad_key || one.grad_value)
        launch(Kernel{one, schedule}, schedule.blocks(), stream, "attention_backward: keys");
    }
  });
}

}  // namespace seo_kernels::cuda::sm80
