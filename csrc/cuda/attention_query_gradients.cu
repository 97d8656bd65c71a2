// Attention backward, queries' side: dQ, and the gradients of all that is shared by queries: relative tables, slopes
// and sinks. A block is a slot: it goes over tiles of queries of one head, and adds to copies of the tables of its own.
#include "cuda/attention/relative.h"
#include "cuda/attention/scores.h"
#include "cuda/attention/widths.h"

namespace seo_kernels::cuda {
namespace {

template <class S, int Width>
struct AttentionQueryGradients {
  using Acc = AccOf<S>;
  static constexpr int kThreads = kTileThreads;
  struct Shared : AttentionShared<Acc> {
    Ends<Acc> key_ends, value_ends, bias_ends;
    SharedArray<Acc, kThreads> totals;
  };
  AttentionBackwardParams p;

  // What a thread has seen of its slot.
  struct Totals {
    Acc slope = 0, sink = 0;
  };

  template <class Block>
  SK_DEVICE void operator()(Block& block) const {
    const int64_t slot = block.index(), head = slot / p.parts;
    PerThread<Totals> totals;
    TilePair pair(p);
#pragma unroll 1
    for (int64_t unit = slot % p.parts; unit < p.batch * p.plan.tiles; unit += p.parts) {
      // every part gets short and long tiles, and begins with its longest causal one
      pair.set_queries(unit % p.batch, head, p.plan.tiles - 1 - unit / p.batch);
      run_tile(block, pair, slot, totals);
    }
    add_up(block, p.slot_slopes, slot, totals, [](const Totals& t) { return t.slope; });
    add_up(block, p.slot_sinks, slot, totals, [](const Totals& t) { return t.sink; });
  }

 private:
  SK_DEVICE HeadTable<Acc> key_table(const TilePair& pair) const { return {p.relative_key, pair.head(), p.dim}; }
  SK_DEVICE HeadTable<Acc> value_table(const TilePair& pair) const {
    return {p.relative_value, pair.head(), p.value_dim};
  }
  SK_DEVICE Acc* slot_key(const TilePair& pair, int64_t slot) const {
    return static_cast<Acc*>(p.slot_relative_key) + slot * p.relative_key.rows() * p.dim;
  }
  SK_DEVICE Acc* slot_value(int64_t slot) const {
    return static_cast<Acc*>(p.slot_relative_value) + slot * p.relative_value.rows() * p.value_dim;
  }
  SK_DEVICE bool by_value() const { return p.slot_relative_value && p.grad_out; }

  template <class Block>
  SK_DEVICE void run_tile(Block& block, TilePair& pair, int64_t slot, PerThread<Totals>& totals) const {
    Shared& shared = block.shared();
    PerThread<Sums<Acc, Width>> sums;
    block.sync();  // ends of the tile before are read
    block.for_threads([&](int thread) { sums[thread] = Sums<Acc, Width>{}; });
    for (Ends<Acc>* ends : {&shared.key_ends, &shared.value_ends, &shared.bias_ends}) clear_ends(block, *ends);
    pair.for_panels(0, static_cast<int>(p.plan.panels), [&] { add_panel(block, pair, slot, sums, totals); });
    const Acc scale = static_cast<Acc>(p.scale);
    if (p.relative_key) {
      if (p.grad_query) add_ends_weighted(block, sums, key_table(pair), shared.key_ends);
      if (p.slot_relative_key) {
        add_ends_gradient(block, slot_key(pair, slot), key_table(pair), queries_of<S>(p.query, pair, p.dim),
                          shared.key_ends, scale);
      }
    }
    if (by_value()) {
      add_ends_gradient(block, slot_value(slot), value_table(pair), queries_of<S>(p.grad_out, pair, p.value_dim),
                        shared.value_ends, Acc(1));
    }
    if (p.slot_relative_bias) add_bias_ends(block, slot);
    if (p.slot_sinks) add_sinks(block, pair, totals);
    if (!p.grad_query) return;
    block.for_threads([&](int thread) {
      const Place place(thread);
      const TensorView& to = p.grad_query;
      S* rows = static_cast<S*>(to.data) + pair.batch() * to.stride[0] + pair.head() * to.stride[1];
      store_sums<S>(rows, to, pair.row_begin() + place.row, pair.row_begin() + pair.rows(), place.column, p.dim,
                    sums[thread], scale);
    });
  }

  template <class Block>
  SK_DEVICE void add_panel(Block& block, const TilePair& pair, int64_t slot, PerThread<Sums<Acc, Width>>& sums,
                           PerThread<Totals>& totals) const {
    Shared& shared = block.shared();
    PerThread<MicroTile<Acc>> products, gradients;
    pair.find_words(block);
    score_products<S>(block, p, pair, products);
    weight_gradients<S>(block, p, pair, gradients);
    differentiate(block, p, pair, products, gradients, [&](const Place& place, int r, const Acc(&weights)[kColumns]) {
      if (!by_value()) return;
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
        shared.memory[(place.column + c) * kLd + place.row + r] = weights[c];
      }
    });
    if (by_value()) {
      const HeadTable<Acc> table = value_table(pair);
      add_to_ends(block, shared.value_ends, table.reach, pair.distance());
      add_table_gradient(block, slot_value(slot), table, queries_of<S>(p.grad_out, pair, p.value_dim), pair.distance(),
                         Acc(1));
    }
    if (p.slot_slopes) add_slopes(block, pair, gradients, totals);
    if (p.slot_relative_bias) {
      block.sync();  // the matrix before is read
      block.for_threads([&](int thread) { put_matrix<true>(shared.memory, Place(thread), gradients[thread]); });
      add_to_ends(block, shared.bias_ends, p.relative_bias.max_distance, pair.distance());
      add_diagonals(block, slot, pair.distance());
    }
    if (!p.grad_query && !p.slot_relative_key) return;
    block.sync();  // the matrix before is read
    block.for_threads([&](int thread) {
      through_softcap(p, gradients[thread], products[thread]);
      put_matrix<true>(shared.memory, Place(thread), gradients[thread]);
    });
    if (p.grad_query) add_weighted(block, sums, keys_of<S>(p.key, pair, p.dim));
    if (!p.relative_key) return;
    const HeadTable<Acc> table = key_table(pair);
    if (p.grad_query) add_band_weighted(block, sums, table, pair.distance());
    add_to_ends(block, shared.key_ends, table.reach, pair.distance());
    if (p.slot_relative_key) {
      add_table_gradient(block, slot_key(pair, slot), table, queries_of<S>(p.query, pair, p.dim), pair.distance(),
                         static_cast<Acc>(p.scale));
    }
  }

  template <class Block>
  SK_DEVICE void add_slopes(Block& block, const TilePair& pair, PerThread<MicroTile<Acc>>& gradients,
                            PerThread<Totals>& totals) const {
    block.for_threads([&](int thread) {
      const Place place(thread);
      Acc sum = 0;
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
#pragma unroll
        for (int c = 0; c < kColumns; ++c) {
          const int64_t distance = pair.distance() + (place.column + c) - (place.row + r);
          sum += gradients[thread].at[r][c] * static_cast<Acc>(distance < 0 ? -distance : distance);
        }
      }
      totals[thread].slope -= sum;
    });
  }

  // Inside the bias's reach every distance is a diagonal of the matrix, and a thread's own.
  template <class Block>
  SK_DEVICE void add_diagonals(Block& block, int64_t slot, int64_t distance) const {
    auto& memory = block.shared().memory;
    const int64_t reach = p.relative_bias.max_distance;
    Acc* to = static_cast<Acc*>(p.slot_relative_bias) + slot * p.relative_bias.rows();
    block.for_threads([&](int thread) {
      const int across = thread - (kTile - 1);  // of column y and row x: y - x
      const int64_t d = distance + across;
      if (across >= kTile || d <= -reach || d >= reach) return;
      Acc sum = 0;
      for (int x = across < 0 ? -across : 0; x < kTile && x + across < kTile; ++x) {
        sum += memory[(x + across) * kLd + x];
      }
      to[d + reach] += sum;
    });
  }

  template <class Block>
  SK_DEVICE void add_bias_ends(Block& block, int64_t slot) const {
    Acc* to = static_cast<Acc*>(p.slot_relative_bias) + slot * p.relative_bias.rows();
    block.sync();
    block.for_threads([&](int thread) {
      if (thread != 0) return;
      Acc below = 0, above = 0;
      for (int x = 0; x < kTile; ++x) {
        below += block.shared().bias_ends[x];
        above += block.shared().bias_ends[kTile + x];
      }
      to[0] += below;
      to[2 * p.relative_bias.max_distance] += above;
    });
  }

  template <class Block>
  SK_DEVICE void add_sinks(Block& block, const TilePair& pair, PerThread<Totals>& totals) const {
    const Acc sink = static_cast<const Acc*>(p.sinks)[pair.head()] * Acc(kLog2E);
    block.for_threads([&](int thread) {
      if (thread >= pair.rows()) return;
      const Acc weight = exp2_of(sink - shift_of<Acc>(p, pair, thread));
      if (weight != Acc(0)) totals[thread].sink -= weight * delta_of<Acc>(p, pair, thread);
    });
  }

  // The threads' sums become the slot's.
  template <class Block, class Of>
  SK_DEVICE void add_up(Block& block, void* to, int64_t slot, PerThread<Totals>& totals, Of of) const {
    if (!to) return;
    auto& shared = block.shared().totals;
    block.sync();
    block.for_threads([&](int thread) { shared[thread] = of(totals[thread]); });
    block.sync();
    block.for_threads([&](int thread) {
      if (thread != 0) return;
      Acc sum = 0;
      for (int n = 0; n < kThreads; ++n) sum += shared[n];
      static_cast<Acc*>(to)[slot] = sum;
    });
  }
};

}  // namespace

void attention_query_gradients(const AttentionBackwardParams& p, Stream stream) {
  with_dtype(p.dtype, [&](auto stored) {
    with_width(p.dim, [&](auto width) {
      using Kernel = AttentionQueryGradients<decltype(stored), decltype(width)::value>;
      launch(Kernel{p}, p.query_heads * p.parts, stream, "attention_backward: queries");
    });
  });
}

}  // namespace seo_kernels::cuda
