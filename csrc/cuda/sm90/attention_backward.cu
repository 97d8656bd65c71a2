// Attention backward on warpgroups. A block has two tiles of 64 rows that stay, one for each consumer: of keys and
// values where dK and dV are made, of queries and output gradients where dQ is. The producer copies the tiles of the
// other side that either of them meets, in their order, into a ring of two stages, and writes on each which it is; the
// consumer that does not meet it leaves it to the other. Of keys, scores and their gradients are made turned, rows of
// keys, so that they feed the sums for values and keys out of registers. Gradients of what queries share come from the
// simt kernels.
//
// Of a multiprocessor's 227 KiB of shared memory, and of a consumer thread's 232 registers, what takes most:
//
//   width                             64        128
//   tiles that stay, KiB              32        64
//   a ring of the other side's, KiB   32        64
//   sums + products + their operands  64+64+32  64+64+32
#include <cstdint>

#include "cuda/sm80/differentiate.h"
#include "cuda/sm90/attention.h"
#include "cuda/sm90/attention_sources.h"
#include "cuda/sm90/attention_steps.h"

namespace seo_kernels::cuda::sm90 {
namespace {

enum class Wanted { kQuery, kKey, kValue, kKeyAndValue };

// Whether a thread has registers for the sums of dK and dV at once; otherwise they take a launch each.
constexpr bool both_at_once(int width) { return width <= 64; }

// The tiles that a panel of keys, or a tile of queries, meets: one after the other, numbered in ascending order.
template <bool OfKeys>
class Met {
 public:
  TilePair pair;

  // head: of keys or of queries; own: the panel, or the tile
  SK_DEVICE Met(const AttentionParams& p, int batch, int head, int own)
      : pair(p), cursor_(cursor(p, pair, batch, head, own)), key_head_(OfKeys ? head : head / group_of(p)) {}
  SK_DEVICE bool next() { return cursor_.next(pair); }
  SK_DEVICE int64_t number(const AttentionParams& p) const {
    if constexpr (OfKeys) {
      return pair.head() * p.plan.tiles + pair.tile();
    } else {
      return cursor_.panel();
    }
  }
  // Of the tile that is met, in its tensors.
  SK_DEVICE int row() const { return static_cast<int>(OfKeys ? pair.row_begin() : pair.key_begin()); }
  SK_DEVICE int head() const { return OfKeys ? static_cast<int>(pair.head()) : key_head_; }

 private:
  using Cursor = std::conditional_t<OfKeys, TileCursor, PanelCursor>;

  SK_DEVICE static Cursor cursor(const AttentionParams& p, TilePair& pair, int batch, int head, int own) {
    pair.set_queries(batch, OfKeys ? head * group_of(p) : head, own);
    if constexpr (OfKeys) {
      return TileCursor(p.plan, pair, own, head * group_of(p), (head + 1) * group_of(p));
    } else {
      return PanelCursor(p.plan, head, own);
    }
  }

  Cursor cursor_;
  int key_head_;
};

template <class S, int Width, Scores kScores, Wanted kWanted>
struct AttentionGradientsWgmma {
  static constexpr bool kOfKeys = kWanted != Wanted::kQuery, kBoth = kWanted == Wanted::kKeyAndValue;
  static constexpr bool kOfValues = kWanted == Wanted::kValue;
  static constexpr int kConsumers = 2, kThreads = warpgroup_threads(kConsumers), kStages = 2;
  static constexpr int kTileEntries = kTile * Width, kTileBytes = 2 * kTileEntries;
  static constexpr int64_t kEnd = -1;  // in place of a number: no tile comes any more
  struct Shared {
    // keys and values, queries and output gradients; at the end, gradients
    SwizzledArray<S, kConsumers * kTileEntries> own_first, own_second;
    SwizzledArray<S, kStages * kTileEntries> met_first, met_second;  // of the other side
    RowFacts facts[kConsumers][2];                                   // of a pair of tiles, and of the next
    SharedArray<int64_t, kStages> number;
    Barrier own_full, met_full[kStages], met_empty[kStages];
    Barrier cut;  // keys of which key_lengths hides some rows are there
  };
  using Pair = Tile<1, kMmaColumns>;
  using Sums = Tile<1, Width / 8>;
  using Operands = PerThread<Fragment>[kTile / kStep];
  AttentionBackwardParams p;
  int count;  // panels, or tiles, of a head
  TensorMap own_first, own_second, met_first, met_second;

  struct Place {
    int batch, head, first;  // of the two that stay
  };

  template <class Block>
  SK_DEVICE void operator()(Block& block) const {
    block.for_threads([&](int thread) {
      if (thread != 0) return;
      Shared& shared = block.shared();
      init_barrier(shared.own_full, 1);
      init_barrier(shared.cut, 1);
      for (int s = 0; s < kStages; ++s) {
        init_barrier(shared.met_full[s], 1);
        init_barrier(shared.met_empty[s], kConsumers * kGroupArrivals);
      }
    });
    run_roles<kConsumers>(
        block, [&](auto& producer) { produce(producer, place(producer.index())); },
        [&](auto& consumer) { consume(consumer); });
  }

 private:
  SK_DEVICE Place place(int64_t block) const {
    int index = static_cast<int>(block);
    compute_anew_from(index);
    const int pairs = (count + 1) / 2, heads = static_cast<int>(kOfKeys ? p.key_heads : p.query_heads);
    const int pair = index % pairs;
    // Causal panels are the longer the earlier they are, causal tiles the later they are: those begin.
    return {index / pairs / heads, index / pairs % heads, 2 * (kOfKeys ? pair : pairs - 1 - pair)};
  }

  template <class Group>
  SK_DEVICE void produce(Group& producer, const Place& at) const {
    Shared& shared = producer.shared();
    producer.one_thread([&] {
      expect_bytes(shared.own_full, 2 * kConsumers * kTileBytes);
      for (int n = 0; n < kConsumers; ++n) {  // zeros, where there is no second
        const int row = (at.first + n) * kTile;
        load_rows<kTile, Width>(own_first, shared.own_full, shared.own_first, n * kTileEntries, row, at.head, at.batch);
        load_rows<kTile, Width>(own_second, shared.own_full, shared.own_second, n * kTileEntries, row, at.head,
                                at.batch);
      }
    });
    const bool two = at.first + 1 < count;
    Met<kOfKeys> one(p, at.batch, at.head, at.first), other(p, at.batch, at.head, at.first + two);
    bool more = one.next(), more_of_other = two && other.next();
    Ring<kStages> ring;
#pragma unroll 1
    while (more || more_of_other) {
      const int64_t number = more ? one.number(p) : INT64_MAX,
                    other_number = more_of_other ? other.number(p) : INT64_MAX;
      if (number <= other_number) {
        load(producer, one, at, ring);
      } else {
        load(producer, other, at, ring);
      }
      if (number <= other_number) more = one.next();
      if (other_number <= number) more_of_other = other.next();
      ring.advance();
    }
    producer.one_thread([&] {
      wait_alone(shared.met_empty[ring.stage], ring.parity ^ 1);
      shared.number[ring.stage] = kEnd;
      expect_bytes(shared.met_full[ring.stage], 0);
    });
  }

  // Keys that key_lengths hides may hold anything: zeros come in their place where they are multiplied with zeros.
  template <class Group>
  SK_DEVICE void load(Group& producer, const Met<kOfKeys>& met, const Place& at, const Ring<kStages>& ring) const {
    Shared& shared = producer.shared();
    const int keys = met.pair.keys();
    const bool cut = !kOfKeys && keys < kTile && met.pair.key_begin() + keys < p.key_length;
    Barrier& full = shared.met_full[ring.stage];
    const int first = ring.stage * kTileEntries;
    producer.one_thread([&] {
      Barrier& there = cut ? shared.cut : full;
      wait_alone(shared.met_empty[ring.stage], ring.parity ^ 1);
      shared.number[ring.stage] = met.number(p);
      expect_bytes(there, 2 * kTileBytes);
      load_rows<kTile, Width>(met_first, there, shared.met_first, first, met.row(), met.head(), at.batch);
      load_rows<kTile, Width>(met_second, there, shared.met_second, first, met.row(), met.head(), at.batch);
    });
    if (!cut) return;
    producer.wait(shared.cut, 0);  // one panel at most is cut
    producer.for_threads([&](int thread) {
      constexpr int pieces = Width / 8;
      for (int n = keys * pieces + thread; n < kTile * pieces; n += kGroupThreads) {
        shared.met_first.template set_pack<8>(first + panel_place<kTile>(n / pieces, n % pieces * 8), Pack<S, 8>{});
      }
    });
    producer.show_to_engines();
    producer.sync();
    producer.one_thread([&] { expect_bytes(full, 0); });
  }

  template <class Group>
  SK_DEVICE void consume(Group& consumer) const {
    Shared& shared = consumer.shared();
    const int group = consumer.group();
    const Place begin = place(consumer.index());
    bool more = begin.first + group < count;
    PerThread<Sums> sums, value_sums;
    consumer.for_threads([&](int thread) { sums[thread] = value_sums[thread] = Sums{}; });
    Met<kOfKeys> met(p, begin.batch, begin.head, begin.first + (more ? group : 0));
    int turn = 0;  // which facts are the pair's
    more = more && met.next();
    if (more) write_facts(consumer, met.pair, shared.facts[group][turn]);
    consumer.wait(shared.own_full, 0);
    PerThread<int64_t> number;
    Ring<kStages> ring;
#pragma unroll 1
    for (;;) {
      consumer.wait(shared.met_full[ring.stage], ring.parity);
      consumer.for_threads([&](int thread) { number[thread] = shared.number[ring.stage]; });
      if (number[0] == kEnd) break;
      if (more && number[0] == met.number(p)) {
        consumer.sync();  // facts are there, those before are read
        PerThread<Pair> products, gradients;
        multiply(consumer, ring.stage, products, gradients);
        differentiate(consumer, met.pair, shared.facts[group][turn], products, gradients);
        Operands weights, slopes;
        if constexpr (kBoth || kOfValues) narrow(consumer, products, weights);
        if constexpr (!kOfValues) narrow(consumer, gradients, slopes);
        if constexpr (kBoth) {
          begin_products(consumer, value_sums, sums);
          add_rows(consumer, value_sums, weights, shared.met_second, ring.stage);
        } else {
          begin_products(consumer, sums);
        }
        if constexpr (kOfValues) {
          add_rows(consumer, sums, weights, shared.met_second, ring.stage);
        } else {
          add_rows(consumer, sums, slopes, shared.met_first, ring.stage);
        }
        commit_products(consumer);
        more = met.next();
        turn ^= 1;
        if (more) write_facts(consumer, met.pair, shared.facts[group][turn]);
        if constexpr (kBoth) {
          wait_for_products<0>(consumer, value_sums, sums);
        } else {
          wait_for_products<0>(consumer, sums);
        }
      }
      consumer.arrive(shared.met_empty[ring.stage]);
      ring.advance();
    }
    consumer.sync();                           // what stayed is read
    const Place at = place(consumer.index());  // anew: registers were worth more
    if (at.first + group >= count) return;
    const int64_t first_row = int64_t{at.first + group} * kTile;
    const float scale = static_cast<float>(p.scale);
    if constexpr (kBoth) {
      store(consumer, shared.own_second, p.grad_value, at, first_row, p.key_length, p.value_dim, value_sums, 1.0f);
    }
    if constexpr (kOfValues) {
      store(consumer, shared.own_second, p.grad_value, at, first_row, p.key_length, p.value_dim, sums, 1.0f);
    } else if constexpr (kOfKeys) {
      store(consumer, shared.own_first, p.grad_key, at, first_row, p.key_length, p.dim, sums, scale);
    } else {
      store(consumer, shared.own_first, p.grad_query, at, first_row, p.query_length, p.dim, sums, scale);
    }
  }

  template <class Group>
  SK_DEVICE void write_facts(Group& consumer, const TilePair& pair, RowFacts& facts) const {
    write_row_facts(consumer, p, pair, facts);
    cuda::write_words(consumer, pair, facts);
  }

  // products = first . first^T, gradients of weights = second . second^T: rows of what stays
  template <class Group>
  SK_DEVICE void multiply(Group& consumer, int stage, PerThread<Pair>& products, PerThread<Pair>& gradients) const {
    Shared& shared = consumer.shared();
    begin_products(consumer, products, gradients);
#pragma unroll
    for (int k = 0; k < Width / kStep; ++k) {
      multiply_rows(consumer, products, shared.own_first, shared.met_first, stage, k);
    }
    if constexpr (!kOfValues) {
#pragma unroll
      for (int k = 0; k < Width / kStep; ++k) {
        multiply_rows(consumer, gradients, shared.own_second, shared.met_second, stage, k);
      }
    }
    commit_products(consumer);
    wait_for_products<0>(consumer, products, gradients);
  }

  template <class Group, class Own, class Other>
  SK_DEVICE static void multiply_rows(Group& consumer, PerThread<Pair>& to, Own& own, Other& other, int stage, int k) {
    multiply_operands<S, Major::kInner, Major::kInner>(consumer, to, 0,
                                                       row_operand<kTile>(own, consumer.group() * kTileEntries, 0, k),
                                                       row_operand<kTile>(other, stage * kTileEntries, 0, k), k > 0);
  }

  template <class Group>
  SK_DEVICE void differentiate(Group& consumer, const TilePair& pair, RowFacts& facts, PerThread<Pair>& products,
                               PerThread<Pair>& gradients) const {
    PerThread<MmaBits> kept;
    if constexpr (kScores != Scores::kPlain) {
      if (p.dropout) kept_pairs<kOfKeys>(consumer, p, pair, warp_row<1>, kept);
    }
    consumer.for_threads([&](int thread) {
      const Pairs<kOfKeys> at(thread, warp_row<1>(thread));
      differentiate_pairs<kScores>(p, pair, facts, at, kept[thread], products[thread], gradients[thread]);
    });
  }

  template <class Group>
  SK_DEVICE static void narrow(Group& consumer, PerThread<Pair>& pairs, Operands& operands) {
    consumer.for_threads([&](int thread) {
#pragma unroll
      for (int k = 0; k < kTile / kStep; ++k) operands[k][thread] = as_left<S>(pairs[thread], 0, k);
    });
    settle(operands);
  }

  // to += left . what is met
  template <class Group, class Memory>
  SK_DEVICE static void add_rows(Group& consumer, PerThread<Sums>& to, Operands& left, Memory& met, int stage) {
#pragma unroll
    for (int k = 0; k < kTile / kStep; ++k) {
      multiply_operands<S, Major::kOuter>(consumer, to, 0, left[k],
                                          column_operand<kTile>(met, stage * kTileEntries, 0, k), true);
    }
  }

  template <class Group, class Memory>
  SK_DEVICE void store(Group& consumer, Memory& memory, const TensorView& to, const Place& at, int64_t first_row,
                       int64_t row_end, int64_t width, PerThread<Sums>& sums, float factor) const {
    if (!to) return;
    S* rows = static_cast<S*>(to.data) + at.batch * to.stride[0] + at.head * to.stride[1];
    PartOf<Memory> own{memory, consumer.group() * kTileEntries};
    store_tile<S, Width>(
        consumer, own, sums, [&](int, int, int) { return factor; }, rows, to, first_row, row_end,
        static_cast<int>(width));
  }
};

// Calls f with width and scores as constants.
template <class F>
void with_gradient_kernel(const AttentionProblem& p, F f) {
  const auto with_scores_of = [&](auto width) {
    if (scores_of(p) == Scores::kPlain) return f(width, std::integral_constant<Scores, Scores::kPlain>{});
    f(width, std::integral_constant<Scores, Scores::kModified>{});
  };
  if (width_of(p) <= 64) return with_scores_of(std::integral_constant<int, 64>{});
  with_scores_of(std::integral_constant<int, 128>{});
}

CopySource grad_out_source(const AttentionBackwardParams& p) {
  return copy_source(p.grad_out, p.batch, p.query_heads, p.query_length, p.value_dim);
}

}  // namespace

std::string backward_refusal(const AttentionBackwardParams& p) {
  if (p.relative_key || p.relative_value) return "it has no relative keys and values";
  if (width_of(p) > 128) return "it has no gradients of heads wider than 128, here " + std::to_string(width_of(p));
  if (p.plan.tile_rows != kTile) {
    return "tiles of queries have " + std::to_string(p.plan.tile_rows) + " rows, it needs " + std::to_string(kTile);
  }
  if (!p.grad_out) return "there are no gradients of outputs";
  const std::string refusal = copy_refusal(grad_out_source(p));
  return refusal.empty() ? source_refusal(p) : "grad_out cannot be copied, " + refusal;
}

int64_t backward_shared_bytes(const AttentionProblem& p) {
  int64_t bytes = 0;
  with_gradient_kernel(p, [&](auto width, auto scores) {
    bytes = sizeof(typename AttentionGradientsWgmma<BFloat16, width, scores, Wanted::kQuery>::Shared);
  });
  return bytes;
}

void attention_key_gradients(const AttentionBackwardParams& p, Stream stream) {
  constexpr const char* op = "attention_backward: keys";
  const int64_t blocks = p.batch * p.key_heads * ((p.plan.panels + 1) / 2);
  const TensorMap query = map_of(query_source(p), kBoxRows, op), key = map_of(key_source(p), kBoxRows, op),
                  value = map_of(value_source(p), kBoxRows, op), grad_out = map_of(grad_out_source(p), kBoxRows, op);
  with_16_bits(p.dtype, [&](auto stored) {
    using S = decltype(stored);
    with_gradient_kernel(p, [&](auto width, auto scores) {
      const auto start = [&](auto wanted) {
        using Kernel = AttentionGradientsWgmma<S, width, scores, wanted>;
        launch(Kernel{p, static_cast<int>(p.plan.panels), key, value, query, grad_out}, blocks, stream, op);
      };
      if constexpr (both_at_once(width)) {
        start(std::integral_constant<Wanted, Wanted::kKeyAndValue>{});
      } else {
        if (p.grad_value) start(std::integral_constant<Wanted, Wanted::kValue>{});
        if (p.grad_key) start(std::integral_constant<Wanted, Wanted::kKey>{});
      }
    });
  });
}

void attention_query_gradients(const AttentionBackwardParams& p, Stream stream) {
  constexpr const char* op = "attention_backward: queries";
  const int64_t blocks = p.batch * p.query_heads * ((p.plan.tiles + 1) / 2);
  const TensorMap query = map_of(query_source(p), kBoxRows, op), key = map_of(key_source(p), kBoxRows, op),
                  value = map_of(value_source(p), kBoxRows, op), grad_out = map_of(grad_out_source(p), kBoxRows, op);
  with_16_bits(p.dtype, [&](auto stored) {
    using S = decltype(stored);
    with_gradient_kernel(p, [&](auto width, auto scores) {
      using Kernel = AttentionGradientsWgmma<S, width, scores, Wanted::kQuery>;
      launch(Kernel{p, static_cast<int>(p.plan.tiles), query, grad_out, key, value}, blocks, stream, op);
    });
  });
}

}  // namespace seo_kernels::cuda::sm90
