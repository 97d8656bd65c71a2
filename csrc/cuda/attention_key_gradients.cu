// Attention backward, keys' side: a block has a panel of keys of one (batch, key head) and goes over the tiles of
// queries that visit it, of all query heads that share the key head.
#include "cuda/attention/scores.h"

namespace seo_kernels::cuda {
namespace {

// Both: dK and dV at once; otherwise one of them, whichever is asked for: the registers hold no more.
template <class S, int Width, bool Both>
struct AttentionKeyGradients {
  using Acc = AccOf<S>;
  using Shared = AttentionShared<Acc>;
  static constexpr int kThreads = kTileThreads;
  static constexpr int kBlocksAtOnce = blocks_for((Both ? 2 : 1) * sizeof(Sums<Acc, Width>));
  AttentionBackwardParams p;

  template <class Block>
  SK_DEVICE void operator()(Block& block) const {
    const int64_t panel = block.index() % p.plan.panels, index = block.index() / p.plan.panels;
    const int64_t batch = index / p.key_heads, key_head = index % p.key_heads;
    PerThread<Sums<Acc, Width>> value_sums, key_sums;
    auto& keys = Both ? key_sums : value_sums;
    block.for_threads([&](int thread) { value_sums[thread] = key_sums[thread] = Sums<Acc, Width>{}; });
    TilePair pair(p);
#pragma unroll 1
    for (int64_t head = key_head * p.group(); head < (key_head + 1) * p.group(); ++head) {
      const int64_t plan_index = (p.plan.per_head ? head * p.plan.panels : 0) + panel;
#pragma unroll 1
      for (int64_t n = p.plan.panel_offsets[plan_index]; n < p.plan.panel_offsets[plan_index + 1]; ++n) {
        const PanelRun run = p.plan.panel_runs[n];
#pragma unroll 1
        for (int64_t tile = run.begin; tile < run.end; ++tile) {
          pair.set_queries(batch, head, tile);
          if (pair.set_keys(panel, run.partial)) add_tile(block, pair, value_sums, keys);
        }
      }
    }
    const int64_t first = panel * kTile;
    if (p.grad_value) store(block, p.grad_value, batch, key_head, first, p.value_dim, value_sums, Acc(1));
    if (p.grad_key) store(block, p.grad_key, batch, key_head, first, p.dim, keys, static_cast<Acc>(p.scale));
  }

 private:
  // dV += P^T dO, dK += dS^T Q
  template <class Block>
  SK_DEVICE void add_tile(Block& block, const TilePair& pair, PerThread<Sums<Acc, Width>>& values,
                          PerThread<Sums<Acc, Width>>& keys) const {
    auto& memory = block.shared().memory;
    PerThread<MicroTile<Acc>> products, gradients;
    pair.find_words(block);
    score_products<S>(block, p, pair, products);
    if (p.grad_key) {
      weight_gradients<S>(block, p, pair, gradients);
    } else {
      block.for_threads([&](int thread) { gradients[thread] = MicroTile<Acc>{}; });
    }
    const bool by_value = p.grad_value && p.grad_out;
    differentiate(block, p, pair, products, gradients, [&](const Place& place, int r, const Acc(&weights)[kColumns]) {
      if (!by_value) return;
      const Pack<Acc, 4> four{{weights[0], weights[1], weights[2], weights[3]}};
      memory.template set_pack<4>((place.row + r) * kLd + place.column, four);
    });
    if (by_value) add_weighted(block, values, queries_of<S>(p.grad_out, pair, p.value_dim));
    if (!p.grad_key) return;
    block.sync();  // the weights are read
    block.for_threads([&](int thread) {
      through_softcap(p, gradients[thread], products[thread]);
      put_matrix<false>(memory, Place(thread), gradients[thread]);
    });
    add_weighted(block, keys, queries_of<S>(p.query, pair, p.dim));
  }

  template <class Block>
  SK_DEVICE void store(Block& block, const TensorView& to, int64_t batch, int64_t head, int64_t first, int64_t width,
                       PerThread<Sums<Acc, Width>>& sums, Acc factor) const {
    block.for_threads([&](int thread) {
      const Place place(thread);
      S* rows = static_cast<S*>(to.data) + batch * to.stride[0] + head * to.stride[1];
      store_sums<S>(rows, to, first + place.row, p.key_length, place.column, width, sums[thread], factor);
    });
  }
};

template <class S, int Width, bool Both>
void launch_panels(const AttentionBackwardParams& p, Stream stream) {
  const int64_t panels = p.batch * p.key_heads * p.plan.panels;
  launch(AttentionKeyGradients<S, Width, Both>{p}, panels, stream, "attention_backward: keys");
}

template <class S>
void launch_key_gradients(const AttentionBackwardParams& p, Stream stream) {
  const int64_t widest = p.dim > p.value_dim ? p.dim : p.value_dim;
  if (widest <= 64) return launch_panels<S, 64, true>(p, stream);
  if (widest <= 128) return launch_panels<S, 128, true>(p, stream);
  for (const bool of_keys : {false, true}) {
    AttentionBackwardParams one = p;
    (of_keys ? one.grad_value : one.grad_key) = {};
    if (one.grad_key || one.grad_value) launch_panels<S, 256, false>(one, stream);
  }
}

}  // namespace

void attention_key_gradients(const AttentionBackwardParams& p, Stream stream) {
  with_dtype(p.dtype, [&](auto stored) { launch_key_gradients<decltype(stored)>(p, stream); });
}

}  // namespace seo_kernels::cuda
