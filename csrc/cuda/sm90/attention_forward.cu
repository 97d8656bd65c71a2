// Attention forward on warpgroups: a block has a tile of 128 queries, 64 for each of two consumers, and goes over the
// panels of keys that they visit, with an online softmax. The producer copies a tile's queries once, and keys and
// values into rings of two stages. A consumer begins the next step's scores before the values of this one are
// multiplied, and turns them into weights meanwhile; consumers take turns to begin products, so that one's softmax runs
// beside the other's products. Scores and weights stay in registers. Up to a width of 128 blocks stay and take tile
// after tile: the producer brings the next one's first keys and queries while consumers finish one, and rings, parities
// and turns go on. At 256 what they would remember does not fit registers: a block has one tile.
//
// Of a multiprocessor's 227 KiB of shared memory, and of a consumer thread's 232 registers, what takes most:
//
//   width                        64        128       128, changed scores  256        128, relative tables
//   keys of a step               128       128       64                   64         64
//   queries, KiB                 16        32        32                   64         32
//   outputs, KiB                 16        32        32                   as queries as queries
//   keys and values, KiB         2 x 32    2 x 64    2 x 32               2 x 64     2 x 16 + 16
//   sums + scores + weights      32+64+32  64+64+32  64+32+16             128+32+16  64+32+16
//
// Relative keys and values (band.h) take 96 KiB for blocks of both tables, 32 for the products of queries with those
// of keys, 16 for rotated weights; a consumer's thread has 32 registers more for each of the latter two. Of values
// there is one stage then.
#include "cuda/attention/online_softmax.h"
#include "cuda/attention/schedule.h"
#include "cuda/sm90/attention.h"
#include "cuda/sm90/attention_sources.h"
#include "cuda/sm90/attention_steps.h"
#include "cuda/sm90/relative_steps.h"

namespace seo_kernels::cuda::sm90 {
namespace {

// How far a consumer is, in one register: the parity of its tile, that of its turn, and above those its steps.
class Progress {
 public:
  SK_DEVICE explicit Progress(int turn) : bits_(static_cast<unsigned>(turn) << 1) {}

  SK_DEVICE int tile_parity() const { return static_cast<int>(bits_ & 1); }
  SK_DEVICE int turn() const { return static_cast<int>(bits_ >> 1 & 1); }
  SK_DEVICE Ring<2> ring() const { return {static_cast<int>(bits_ >> 2 & 1), static_cast<int>(bits_ >> 3 & 1)}; }
  SK_DEVICE void end_tile() { bits_ ^= 1; }
  SK_DEVICE void end_turn() { bits_ ^= 2; }
  SK_DEVICE void end_step() { bits_ += 4; }

 private:
  unsigned bits_;
};

// Panels of a step: what changes scores takes the registers of one.
constexpr int panels_at_once(int width, Scores scores) {
  return scores != Scores::kRelative && (width <= 64 || (width <= 128 && scores == Scores::kPlain)) ? 2 : 1;
}

template <class S, int Width, Scores kScores>
struct AttentionForwardWgmma {
  static constexpr int kConsumers = 2, kThreads = warpgroup_threads(kConsumers);
  static constexpr int kTileRows = kConsumers * kGroupRows;
  static constexpr bool kRelative = kScores == Scores::kRelative;
  static constexpr int kPanels = panels_at_once(Width, kScores), kKeys = kPanels * kTile, kStages = 2;
  static constexpr int kValueStages = kRelative && Width > 64 ? 1 : kStages;
  static constexpr int kGroupEntries = kGroupRows * Width, kStageEntries = kKeys * Width;
  static constexpr bool kStays = Width <= 128;
  // Outputs are written by way of memory of their own where there is room, so that the next queries come meanwhile.
  static constexpr bool kOutputsApart = Width <= (kRelative ? 64 : 128);
  struct Nothing {};
  using Queries = SwizzledArray<S, kConsumers * kGroupEntries>;  // a consumer's 64 rows, then the other's
  struct Plain {
    Queries query;  // where outputs have no memory of their own, later those
    std::conditional_t<kOutputsApart, Queries, Nothing> output;
    SwizzledArray<S, kStages * kStageEntries> key;
    SwizzledArray<S, kValueStages * kStageEntries> value;
    SharedArray<uint64_t, kPanels * kTileRows> words;  // what the pattern lets each query see
    SharedArray<unsigned, 2> index;                    // in the schedule, of every other tile of the block
    Barrier query_full, query_empty, key_full[kStages], key_empty[kStages], value_full[kStages], value_empty[kStages];
    Barrier cut;               // values of which key_lengths hides some rows are there
    Barrier turn[kConsumers];  // the consumer may begin products
  };
  using Shared = std::conditional_t<kRelative, WithBands<S, Width, kConsumers, Plain>, Plain>;
  using Products = Tile<1, kPanels * kMmaColumns>;
  using Sums = Tile<1, Width / 8>;
  using Weights = PerThread<Fragment>[kKeys / kStep];
  AttentionForwardParams p;
  Schedule schedule;
  Deal deal;
  TensorMap query, key, value;

  template <class Block>
  SK_DEVICE void operator()(Block& block) const {
    block.for_threads([&](int thread) {
      if (thread != 0) return;
      Shared& shared = block.shared();
      shared.index[0] = static_cast<unsigned>(block.index());
      init_barrier(shared.query_full, 1);
      init_barrier(shared.query_empty, kConsumers * kGroupArrivals);
      init_barrier(shared.cut, 1);
      for (Barrier& turn : shared.turn) init_barrier(turn, kGroupArrivals);
      for (int s = 0; s < kStages; ++s) {
        init_barrier(shared.key_full[s], 1);
        init_barrier(shared.value_full[s], 1);
        init_barrier(shared.key_empty[s], kConsumers * kGroupArrivals);
        init_barrier(shared.value_empty[s], kConsumers * kGroupArrivals);
      }
      if constexpr (kRelative) shared.init_barriers();
    });
    run_roles<kConsumers>(
        block, [&](auto& producer) { produce(producer); }, [&](auto& consumer) { consume(consumer); });
  }

 private:
  using Loads = std::conditional_t<kRelative, RelativeLoads<S, Width>, Nothing>;
  using Relative = std::conditional_t<kRelative, RelativeSteps<S, Width>, Nothing>;

  // What goes on from tile to tile: of the producer, and of a consumer.
  struct Loading {
    Ring<kStages> ring;
    Loads relative;
    int tile_parity = 0, cut_parity = 0;
  };
  struct Consuming {
    Progress progress;
    Relative relative;
  };

  // Which stage of values belongs to a stage of keys.
  SK_DEVICE static Ring<kStages> values_at(const Ring<kStages>& ring) {
    if constexpr (kValueStages == kStages) return ring;
    return {0, ring.stage};
  }

  // Of the tile at hand. It stays there until the one after the next is taken.
  template <class Group>
  SK_DEVICE static unsigned index_of(Group& group, int tile_parity) {
    unsigned index = 0;
    group.for_threads([&](int) { index = group.shared().index[tile_parity]; });
    return index;
  }

  template <class Group>
  SK_DEVICE void produce(Group& producer) const {
    Shared& shared = producer.shared();
    Loading state;
#pragma unroll 1
    for (;;) {
      const unsigned index = index_of(producer, state.tile_parity);
      if (!deal.has(index)) break;
      unsigned next = 0;
      load_tile(producer, TilePlace(p, schedule.at(index)), state, next);
      if constexpr (!kStays) return;
      state.tile_parity ^= 1;
      producer.one_thread([&] { shared.index[state.tile_parity] = next; });
      producer.sync();
    }
    producer.one_thread([&] {
      wait_alone(shared.query_empty, state.tile_parity ^ 1);
      expect_bytes(shared.query_full, 0);  // consumers see that there is no tile
    });
  }

  // All that a tile needs, in the order in which room for it becomes free: while consumers finish the tile before, its
  // first keys come. next: set to the tile that follows, of one thread.
  template <class Group>
  SK_DEVICE void load_tile(Group& producer, const TilePlace& at, Loading& state, unsigned& next) const {
    Steps<kPanels> steps(p, at);
    bool more = steps.next();
    if (more) load_keys(producer, at, steps, state.ring);
    if constexpr (kRelative) {
      state.relative.begin();
      if (more) state.relative.load_keys(producer, p, at, steps.pairs[0]);
    }
    producer.one_thread([&] {
      Shared& shared = producer.shared();
      wait_alone(shared.query_empty, state.tile_parity ^ 1);
      expect_bytes(shared.query_full, kConsumers * kGroupEntries * sizeof(S));
      const int row = static_cast<int>(steps.pairs[0].row_begin());
      for (int n = 0; n < kConsumers; ++n) {
        load_rows<kGroupRows, Width>(query, shared.query_full, shared.query, n * kGroupEntries, row + n * kGroupRows,
                                     at.head, at.batch);
      }
      next = deal.next(producer);
    });
#pragma unroll 1
    while (more) {
      const Steps<kPanels> now = steps;
      const Ring<kStages> values = values_at(state.ring);
      state.ring.advance();
      more = steps.next();
      if (more) load_keys(producer, at, steps, state.ring);
      load_values(producer, at, now, values, state.cut_parity);
      if constexpr (kRelative) {
        state.relative.load_values(producer, p, at, now.pairs[0]);
        if (more) state.relative.load_keys(producer, p, at, steps.pairs[0]);
      }
    }
  }

  template <class Group>
  SK_DEVICE void load_keys(Group& producer, const TilePlace& at, const Steps<kPanels>& steps,
                           const Ring<kStages>& ring) const {
    Shared& shared = producer.shared();
    producer.one_thread([&] {
      wait_alone(shared.key_empty[ring.stage], ring.parity ^ 1);
      load_panels(key, shared.key_full[ring.stage], shared.key, ring.stage, at, steps);
    });
  }

  // Values that key_lengths hides may hold anything: zeros come in their place.
  template <class Group>
  SK_DEVICE void load_values(Group& producer, const TilePlace& at, const Steps<kPanels>& steps,
                             const Ring<kStages>& ring, int& cut_parity) const {
    Shared& shared = producer.shared();
    bool cut = false;
    for (const TilePair& pair : steps.pairs) {
      cut |= pair.keys() > 0 && pair.keys() < kTile && pair.key_begin() + pair.keys() < p.key_length;
    }
    Barrier& full = shared.value_full[ring.stage];
    producer.one_thread([&] {
      wait_alone(shared.value_empty[ring.stage], ring.parity ^ 1);
      load_panels(value, cut ? shared.cut : full, shared.value, ring.stage, at, steps);
    });
    if (!cut) return;
    producer.wait(shared.cut, cut_parity);
    cut_parity ^= 1;
    producer.for_threads([&](int thread) {
      for (int n = 0; n < kPanels; ++n) {
        constexpr int pieces = Width / 8;
        const int first = n * kTile + steps.pairs[n].keys();
        for (int piece = first * pieces + thread; piece < (n + 1) * kTile * pieces; piece += kGroupThreads) {
          const int place = panel_place<kKeys>(piece / pieces, piece % pieces * 8);
          shared.value.template set_pack<8>(ring.stage * kStageEntries + place, Pack<S, 8>{});
        }
      }
    });
    producer.show_to_engines();
    producer.sync();
    producer.one_thread([&] { expect_bytes(full, 0); });
  }

  template <class Memory>
  SK_DEVICE void load_panels(const TensorMap& map, Barrier& full, Memory& to, int stage, const TilePlace& at,
                             const Steps<kPanels>& steps) const {
    expect_bytes(full, kStageEntries * sizeof(S));
#pragma unroll
    for (int n = 0; n < kPanels; ++n) {
      const TilePair& pair = steps.pairs[n];
      // beyond the last key are zeros
      const int row = static_cast<int>(pair.keys() > 0 ? pair.key_begin() : p.key_length);
      load_rows<kKeys, Width>(map, full, to, stage * kStageEntries + n * kBoxEntries, row, at.key_head, at.batch);
    }
  }

  template <class Group>
  SK_DEVICE void consume(Group& consumer) const {
    Consuming state{Progress(consumer.group() == 0), {}};  // the first one's turn is given
#pragma unroll 1
    for (;;) {
      consumer.wait(consumer.shared().query_full, state.progress.tile_parity());
      const unsigned index = index_of(consumer, state.progress.tile_parity());
      if (!deal.has(index)) return;
      attend(consumer, TilePlace(p, schedule.at(index)), state);
      if constexpr (!kStays) return;
      state.progress.end_tile();
    }
  }

  // A tile, of which the queries are there.
  template <class Group>
  SK_DEVICE void attend(Group& consumer, const TilePlace& at, Consuming& state) const {
    Shared& shared = consumer.shared();
    const int group = consumer.group();
    Steps<kPanels> steps(p, at);
    Progress& progress = state.progress;
    Relative& relative = state.relative;
    PerThread<Sums> sums;
    PerThread<Products> products;
    PerThread<SoftmaxRows<1>> rows;
    PerThread<PerRow<1>> factors;  // of what was summed before
    Weights weights;
    consumer.for_threads([&](int thread) {
      sums[thread] = Sums{};
      rows[thread] = no_rows<1>();
    });
    if constexpr (kRelative) relative.begin(consumer);
    bool more = steps.next();
    const bool any = more;
    if (any) {
      const Ring<kStages> ring = progress.ring();
      consumer.wait(shared.key_full[ring.stage], ring.parity);
      begin_scores(consumer, ring.stage, products);
      wait_for_products<0>(consumer, products);
      consumer.arrive(shared.key_empty[ring.stage]);
      if constexpr (kRelative) relative.add_keys(consumer, p, steps.pairs[0], products, sums);
      weigh(consumer, steps, products, rows, factors);
      narrow(consumer, products, weights);
      if constexpr (kRelative) relative.take_weights(consumer, p, steps.pairs[0], factors, products);
      more = steps.next();
    }
#pragma unroll 1
    while (more) {
      const Ring<kStages> values = values_at(progress.ring());
      progress.end_step();
      const Ring<kStages> ring = progress.ring();
      consumer.wait(shared.key_full[ring.stage], ring.parity);
      consumer.wait(shared.value_full[values.stage], values.parity);
      if constexpr (kRelative) relative.wait_for_values(consumer);
      consumer.wait(shared.turn[group], progress.turn());
      begin_scores(consumer, ring.stage, products);
      begin_values(consumer, values.stage, weights, relative, sums);
      consumer.arrive(shared.turn[1 - group]);
      progress.end_turn();
      wait_for_products<1>(consumer, products);
      consumer.arrive(shared.key_empty[ring.stage]);
      if constexpr (kRelative) relative.add_keys(consumer, p, steps.pairs[0], products, sums);
      weigh(consumer, steps, products, rows, factors);
      wait_for_products<0>(consumer, sums);
      consumer.arrive(shared.value_empty[values.stage]);
      if constexpr (kRelative) relative.release_values(consumer);
      consumer.for_threads([&](int thread) {
#pragma unroll
        for (int n = 0; n < Width / 8; ++n) {
#pragma unroll
          for (int e = 0; e < 4; ++e) sums[thread].at[0][n].at[e] *= factors[thread].at[0][e / 2];
        }
      });
      narrow(consumer, products, weights);
      if constexpr (kRelative) relative.take_weights(consumer, p, steps.pairs[0], factors, products);
      more = steps.next();
    }
    if constexpr (kOutputsApart) consumer.arrive(shared.query_empty);
    if (any) {
      const Ring<kStages> values = values_at(progress.ring());
      progress.end_step();
      consumer.wait(shared.value_full[values.stage], values.parity);
      if constexpr (kRelative) relative.wait_for_values(consumer);
      begin_values(consumer, values.stage, weights, relative, sums);
      wait_for_products<0>(consumer, sums);
      consumer.arrive(shared.value_empty[values.stage]);
      if constexpr (kRelative) relative.release_values(consumer);
    }
    if constexpr (kRelative) relative.add_ends(consumer, p, steps.pairs[0], sums);
    finish(consumer, steps.pairs[0], rows, sums);
  }

  // products = queries . keys
  template <class Group>
  SK_DEVICE void begin_scores(Group& consumer, int stage, PerThread<Products>& products) const {
    Shared& shared = consumer.shared();
    begin_products(consumer, products);
#pragma unroll
    for (int k = 0; k < Width / kStep; ++k) {
      multiply_operands<S, Major::kInner, Major::kInner>(
          consumer, products, 0, row_operand<kGroupRows>(shared.query, consumer.group() * kGroupEntries, 0, k),
          row_operand<kKeys>(shared.key, stage * kStageEntries, 0, k), k > 0);
    }
    commit_products(consumer);
  }

  // sums += weights . values, relative values too
  template <class Group>
  SK_DEVICE void begin_values(Group& consumer, int stage, Weights& weights, Relative& relative,
                              PerThread<Sums>& sums) const {
    begin_products(consumer, sums);
#pragma unroll
    for (int k = 0; k < kKeys / kStep; ++k) {
      multiply_operands<S, Major::kOuter>(consumer, sums, 0, weights[k],
                                          column_operand<kKeys>(consumer.shared().value, stage * kStageEntries, 0, k),
                                          true);
    }
    if constexpr (kRelative) relative.multiply_values(consumer, sums);
    commit_products(consumer);
  }

  // First of the rows of a thread's warp in the tile.
  SK_DEVICE static int first_row(int group, int thread) { return group * kGroupRows + warp_row<1>(thread); }

  template <class Group>
  SK_DEVICE void weigh(Group& consumer, const Steps<kPanels>& steps, PerThread<Products>& products,
                       PerThread<SoftmaxRows<1>>& rows, PerThread<PerRow<1>>& factors) const {
    auto& words = consumer.shared().words;
    const auto row_of = [&](int thread) { return first_row(consumer.group(), thread); };
    write_words<kPanels, kTileRows>(consumer, p, steps, words, row_of);
    weigh_products<kScores>(
        consumer, p, steps.pairs, [&](int panel) { return PanelWords{words, panel * kTileRows}; }, row_of, products,
        rows, [&](int thread, int m, int h, float factor) { factors[thread].at[m][h] = factor; });
  }

  template <class Group>
  SK_DEVICE static void narrow(Group& consumer, PerThread<Products>& products, Weights& weights) {
    consumer.for_threads([&](int thread) {
#pragma unroll
      for (int k = 0; k < kKeys / kStep; ++k) weights[k][thread] = as_left<S>(products[thread], 0, k);
    });
    settle(weights);
  }

  template <class Group>
  SK_DEVICE void finish(Group& consumer, const TilePair& pair, PerThread<SoftmaxRows<1>>& rows,
                        PerThread<Sums>& sums) const {
    const int group = consumer.group(), begin = group * kGroupRows;
    finish_rows<1>(consumer, p, pair, [&](int thread) { return first_row(group, thread); }, rows);
    S* out = static_cast<S*>(p.out.data) + pair.batch() * p.out.stride[0] + pair.head() * p.out.stride[1];
    const auto store = [&](auto& memory) {
      PartOf<Queries> own{memory, group * kGroupEntries};
      Anew<Group> anew{consumer};
      store_tile<S, Width>(
          anew, own, sums, [&](int thread, int m, int h) { return rows[thread].factor[m][h]; }, out, p.out,
          pair.row_begin() + begin, pair.row_begin() + pair.rows(), static_cast<int>(p.value_dim));
    };
    Shared& shared = consumer.shared();
    if constexpr (kOutputsApart) {
      store(shared.output);
    } else {
      consumer.sync();  // its queries are read
      store(shared.query);
      consumer.show_to_engines();
      consumer.arrive(shared.query_empty);
    }
  }
};

// Calls f with the kernel's type.
template <class F>
void with_forward_kernel(const AttentionProblem& p, F f) {
  with_16_bits(p.dtype, [&](auto stored) {
    using S = std::remove_cvref_t<decltype(stored)>;
    with_width(width_of(p), [&](auto width) {
      constexpr int kWidth = decltype(width)::value;
      const Scores scores = scores_of(p);
      if (scores == Scores::kPlain) return f(std::type_identity<AttentionForwardWgmma<S, kWidth, Scores::kPlain>>{});
      if constexpr (kWidth <= kWidestRelative) {
        if (scores == Scores::kRelative)
          return f(std::type_identity<AttentionForwardWgmma<S, kWidth, Scores::kRelative>>{});
      }
      f(std::type_identity<AttentionForwardWgmma<S, kWidth, Scores::kModified>>{});
    });
  });
}

}  // namespace

std::string forward_refusal(const AttentionProblem& p) {
  if (scores_of(p) == Scores::kRelative && width_of(p) > kWidestRelative)
    return "relative keys and values of heads of more than " + std::to_string(kWidestRelative) + " do not fit a block";
  return source_refusal(p);
}

int64_t forward_shared_bytes(const AttentionProblem& p) {
  int64_t bytes = 0;
  with_forward_kernel(p, [&](auto kernel) { bytes = sizeof(typename decltype(kernel)::type::Shared); });
  return bytes;
}

void attention_forward(const AttentionForwardParams& p, Stream stream) {
  constexpr const char* op = "attention_forward";
  const Schedule schedule = schedule_of_queries(p);
  const TensorMap query = map_of(query_source(p), kBoxRows, op), key = map_of(key_source(p), kBoxRows, op),
                  value = map_of(value_source(p), kBoxRows, op);
  with_forward_kernel(p, [&](auto kernel) {
    using Kernel = typename decltype(kernel)::type;
    const Deal deal = deal_of(schedule, Kernel::kStays ? p.taken : nullptr, stream, op);
    launch(Kernel{p, schedule, deal, query, key, value}, deal.blocks, stream, op);
  });
}

}  // namespace seo_kernels::cuda::sm90
