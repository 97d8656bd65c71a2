// Attention backward on warpgroups. A block has two tiles of 64 rows that stay, one for each consumer: of keys and
// values where dK and dV are made, of queries and output gradients where dQ is. The producer copies the tiles of the
// other side that either of them meets, in their order, into a ring of two stages, and writes on each which it is; the
// consumer that does not meet it leaves it to the other. Of keys, scores and their gradients are made turned, rows of
// keys, so that they feed the sums for values and keys out of registers. Gradients of what queries share come from
// other kernels. Where there are relative tables, each tile is followed by a stripe of the values' and of the keys'
// table, in a ring of their own, where any of its rows can be met.
//
// Of a multiprocessor's 227 KiB of shared memory, and of a consumer thread's 232 registers, what takes most:
//
//   width                             64        128       256
//   tiles that stay, KiB              32        64        128; dV 64
//   a ring of the other side's, KiB   32        64        2 x 32 + 32; dV 128
//   sums + products + their operands  64+64+32  64+64+32  128+64+16
//
// dV needs no gradients of weights, and none of what they are made of stays. Of a width of 256, the other gradients
// have one stage of output gradients, or values: those are read before the scores' gradients are found, and the next
// come meanwhile.
// Beside relative tables, whose stripes take 48 KiB and what is rotated of them 32 to 48, the ring of dQ of a width of
// 128 has one stage.
#pragma once

#include "cuda/sm90/gradient_tiles.h"
#include "cuda/sm90/relative_gradients.h"

namespace seo_kernels::cuda::sm90 {

struct Nothing {};

template <class S, int Width, Scores kScores, Wanted kWanted>
struct AttentionGradientsWgmma {
  static constexpr bool kOfKeys = kWanted != Wanted::kQuery, kBoth = kWanted == Wanted::kKeyAndValue;
  static constexpr bool kOfValues = kWanted == Wanted::kValue, kRelative = kScores == Scores::kRelative;
  static constexpr bool kWide = Width > 128;
  static constexpr bool kOfTable = kRelative && !kOfKeys;  // the keys' table is part of dQ
  static constexpr int kConsumers = 2, kThreads = warpgroup_threads(kConsumers);
  static constexpr int kStages = met_stages(Width, kScores, kWanted), kStripes = stripe_stages(Width);
  // Of one second tile at once, the barriers come after those of the stages; there is room for one pair's facts.
  static constexpr bool kOneSecond = one_second(Width, kWanted);
  static constexpr int kSecondStages = kOneSecond ? 1 : kStages, kBarriers = kStages + kOneSecond;
  static constexpr int kFacts = kOneSecond ? 1 : 2;
  static constexpr int kTileEntries = kTile * Width, kTileBytes = 2 * kTileEntries;
  static constexpr int64_t kEnd = -1;  // in place of a number: no tile comes any more
  struct SharedStripes {
    BandRing<S, Width> stripes[kStripes];
    std::conditional_t<kOfKeys, Rotated, RotatedWithWeights<S>> rotated[kConsumers];
    SharedArray<int, 2 * kStages> follows;  // each tile: whether a stripe of the values' table does, and of the keys'
    Barrier stripe_full[kStripes], stripe_empty[kStripes];
  };
  using Facts = std::conditional_t<kRelative, RelativeRowFacts, RowFacts>;
  struct Shared : std::conditional_t<kRelative, SharedStripes, Nothing> {
    // keys and values, queries and output gradients; at the end, gradients
    SwizzledArray<S, kConsumers * kTileEntries> own_first;
    std::conditional_t<kOfValues, Nothing, SwizzledArray<S, kConsumers * kTileEntries>> own_second;
    SwizzledArray<S, kStages * kTileEntries> met_first;  // of the other side
    SwizzledArray<S, kSecondStages * kTileEntries> met_second;
    Facts facts[kConsumers][kFacts];  // of a pair of tiles, and of the next
    SharedArray<int64_t, kStages> number;
    Barrier own_full, met_full[kBarriers], met_empty[kBarriers];
    Barrier cut;  // keys of which key_lengths hides some rows are there
  };
  using Pair = Tile<1, kMmaColumns>;
  using Sums = Tile<1, Width / 8>;
  AttentionBackwardParams p;
  int count;  // panels, or tiles, of a head
  TensorMap own_first, own_second, met_first, met_second;
  std::conditional_t<kRelative, StripeMaps, Nothing> stripe_maps;

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
      for (int s = 0; s < kBarriers; ++s) {
        init_barrier(shared.met_full[s], 1);
        init_barrier(shared.met_empty[s], kConsumers * kGroupArrivals);
      }
      if constexpr (kRelative) {
        for (int s = 0; s < kStripes; ++s) {
          init_barrier(shared.stripe_full[s], 1);
          init_barrier(shared.stripe_empty[s], kConsumers * kGroupArrivals);
        }
      }
    });
    run_roles<kConsumers>(
        block, [&](auto& producer) { produce(producer, place(producer.index())); },
        [&](auto& consumer) { consume(consumer); });
  }

 private:
  // Where the second tile of a stage is.
  SK_DEVICE static Ring<kStages> second_at(const Ring<kStages>& ring) {
    static_assert(!kOneSecond || kStages == 2);
    if constexpr (!kOneSecond) return ring;
    return {0, ring.stage};
  }

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
      expect_bytes(shared.own_full, (kOfValues ? 1 : 2) * kConsumers * kTileBytes);
      for (int n = 0; n < kConsumers; ++n) {  // zeros, where there is no second
        const int row = (at.first + n) * kTile;
        load_rows<kTile, Width>(own_first, shared.own_full, shared.own_first, n * kTileEntries, row, at.head, at.batch);
        if constexpr (!kOfValues) {
          load_rows<kTile, Width>(own_second, shared.own_full, shared.own_second, n * kTileEntries, row, at.head,
                                  at.batch);
        }
      }
    });
    const bool two = at.first + 1 < count;
    Met<kOfKeys> one(p, at.batch, at.head, at.first), other(p, at.batch, at.head, at.first + two);
    bool more = one.next(), more_of_other = two && other.next();
    Ring<kStages> ring;
    [[maybe_unused]] Ring<kStripes> stripes;
#pragma unroll 1
    while (more || more_of_other) {
      const int64_t number = more ? one.number(p) : INT64_MAX,
                    other_number = more_of_other ? other.number(p) : INT64_MAX;
      if (number <= other_number) {
        load(producer, one, at, ring);
        if constexpr (kRelative) load_stripes(producer, one, at, stripes);
      } else {
        load(producer, other, at, ring);
        if constexpr (kRelative) load_stripes(producer, other, at, stripes);
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
      if constexpr (kRelative) {
        shared.follows[2 * ring.stage] = stripe_follows<true>(met, at);
        shared.follows[2 * ring.stage + 1] = stripe_follows<false>(met, at);
      }
      expect_bytes(there, (kOneSecond ? 1 : 2) * kTileBytes);
      load_rows<kTile, Width>(met_first, there, shared.met_first, first, met.row(), met.head(), at.batch);
      if constexpr (kOneSecond) {
        Barrier& second = shared.met_full[kStages];
        wait_alone(shared.met_empty[kStages], second_at(ring).parity ^ 1);
        expect_bytes(second, kTileBytes);
        load_rows<kTile, Width>(met_second, second, shared.met_second, 0, met.row(), met.head(), at.batch);
      } else {
        load_rows<kTile, Width>(met_second, there, shared.met_second, first, met.row(), met.head(), at.batch);
      }
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

  // Of the first of a stripe's rows: the least of the distances that either tile that stays has to the one that is met.
  SK_DEVICE int64_t stripe_distance(const Met<kOfKeys>& met, const Place& at) const {
    const int64_t key = kOfKeys ? int64_t{at.first} * kTile : met.pair.key_begin();
    const int64_t query = kOfKeys ? met.pair.row_begin() : int64_t{at.first + 1} * kTile;
    return key - (query + p.query_offset) - (kTile - 1);
  }
  template <bool OfValue>
  SK_DEVICE bool stripe_follows(const Met<kOfKeys>& met, const Place& at) const {
    return !(OfValue && kOfValues) && meets_stripe(table_of<OfValue>(p), stripe_distance(met, at));
  }

  template <class Group>
  SK_DEVICE void load_stripes(Group& producer, const Met<kOfKeys>& met, const Place& at, Ring<kStripes>& ring) const {
    load_stripe<true>(producer, met, at, stripe_maps.value, ring);
    load_stripe<false>(producer, met, at, stripe_maps.key, ring);
  }
  template <bool OfValue, class Group>
  SK_DEVICE void load_stripe(Group& producer, const Met<kOfKeys>& met, const Place& at, const TensorMap& map,
                             Ring<kStripes>& ring) const {
    if (!stripe_follows<OfValue>(met, at)) return;
    Shared& shared = producer.shared();
    Barrier& full = shared.stripe_full[ring.stage];
    producer.one_thread([&] {
      const RelativeTable& table = table_of<OfValue>(p);
      const int row = stripe_row(table, stripe_distance(met, at));
      const int head = table.per_head ? static_cast<int>(met.pair.head()) : 0;
      wait_alone(shared.stripe_empty[ring.stage], ring.parity ^ 1);
      expect_bytes(full, kBandBlocks * kTileBytes);
      for (int n = 0; n < kBandBlocks; ++n) {
        load_rows<kTile, Width>(map, full, shared.stripes[ring.stage], n * kTileEntries, row + n * kBoxRows, head, 0);
      }
    });
    ring.advance();
  }

  template <class Group>
  SK_DEVICE void consume(Group& consumer) const {
    Shared& shared = consumer.shared();
    const int group = consumer.group();
    const Place begin = place(consumer.index());
    bool more = begin.first + group < count;
    PerThread<Sums> sums, value_sums;
    [[maybe_unused]] PerThread<std::conditional_t<kOfTable, EndSums, Nothing>> ends;
    consumer.for_threads([&](int thread) {
      sums[thread] = value_sums[thread] = Sums{};
      ends[thread] = {};
    });
    Met<kOfKeys> met(p, begin.batch, begin.head, begin.first + (more ? group : 0));
    int turn = 0;  // which facts are the pair's
    more = more && met.next();
    if (more) write_facts(consumer, met.pair, shared.facts[group][turn]);
    consumer.wait(shared.own_full, 0);
    PerThread<int64_t> number;
    Ring<kStages> ring;
    [[maybe_unused]] Ring<kStripes> stripes;
#pragma unroll 1
    for (;;) {
      consumer.wait(shared.met_full[ring.stage], ring.parity);
      consumer.for_threads([&](int thread) { number[thread] = shared.number[ring.stage]; });
      if (number[0] == kEnd) break;
      if (more && number[0] == met.number(p)) {
        consumer.sync();  // facts are there, those before are read
        PerThread<Pair> products, gradients;
        PerThread<MmaBits> kept;
        if constexpr (kWide) draw(consumer, met.pair, kept);  // while there are no products in registers
        multiply(consumer, ring, products, gradients);
        if constexpr (kRelative) {
          RelativeRowFacts& facts = shared.facts[group][turn];
          if (!kOfValues) add_table<true>(consumer, met.pair, ring.stage, facts, stripes, gradients);
          add_table<false>(consumer, met.pair, ring.stage, facts, stripes, products);
        }
        if constexpr (!kWide) draw(consumer, met.pair, kept);
        differentiate(consumer, met.pair, shared.facts[group][turn], kept, products, gradients);
        TileOperands weights, slopes;
        if constexpr (kBoth || kOfValues) narrow_pairs<S>(consumer, products, weights);
        if constexpr (!kOfValues) narrow_pairs<S>(consumer, gradients, slopes);
        if constexpr (kBoth) {
          begin_products(consumer, value_sums, sums);
          add_rows<S, Width>(consumer, value_sums, weights, shared.met_second, ring.stage);
        } else {
          begin_products(consumer, sums);
        }
        if constexpr (kOfValues) {
          add_rows<S, Width>(consumer, sums, weights, shared.met_second, ring.stage);
        } else {
          add_rows<S, Width>(consumer, sums, slopes, shared.met_first, ring.stage);
        }
        commit_products(consumer);
        [[maybe_unused]] bool inside = false;  // whether the keys' table has rows for the pair, but for its ends
        [[maybe_unused]] RotatedWeights low, high;
        if constexpr (kOfTable) {
          inside = follows<false>(consumer, ring.stage) && !beyond_table(p.relative_key, met.pair.distance());
          weigh_table(consumer, met.pair, gradients, inside, ends, low, high);
        }
        more = met.next();
        if constexpr (kFacts == 2) {
          turn ^= 1;
        } else {
          consumer.sync();  // facts are read
        }
        if (more) write_facts(consumer, met.pair, shared.facts[group][turn]);
        if constexpr (kBoth) {
          wait_for_products<0>(consumer, value_sums, sums);
        } else {
          wait_for_products<0>(consumer, sums);
        }
        if constexpr (kOfTable) {
          if (inside) add_stripe(consumer, sums, low, high, stripes);
          if (follows<false>(consumer, ring.stage)) pass_stripe(consumer, stripes);
        }
      } else if constexpr (kRelative) {
        leave_stripe<true>(consumer, ring.stage, stripes);
        leave_stripe<false>(consumer, ring.stage, stripes);
      } else if constexpr (kOneSecond) {
        wait_for_second(consumer, ring);  // or it would pass one twice
        consumer.arrive(shared.met_empty[kStages]);
      }
      consumer.arrive(shared.met_empty[ring.stage]);
      ring.advance();
    }
    consumer.sync();                           // what stayed is read
    const Place at = place(consumer.index());  // anew: registers were worth more
    if (at.first + group >= count) return;
    const int64_t first_row = int64_t{at.first + group} * kTile;
    const float scale = static_cast<float>(p.scale);
    if constexpr (kOfTable) {
      if (p.relative_key) add_end_rows(consumer, sums, ends, HeadTable<float>(p.relative_key, at.head, p.dim));
    }
    if constexpr (kBoth) {
      store(consumer, shared.own_second, p.grad_value, at, first_row, p.key_length, p.value_dim, value_sums, 1.0f);
    }
    if constexpr (kOfValues) {
      store(consumer, shared.own_first, p.grad_value, at, first_row, p.key_length, p.value_dim, sums, 1.0f);
    } else if constexpr (kOfKeys) {
      store(consumer, shared.own_first, p.grad_key, at, first_row, p.key_length, p.dim, sums, scale);
    } else {
      store(consumer, shared.own_first, p.grad_query, at, first_row, p.query_length, p.dim, sums, scale);
    }
  }

  template <class Group>
  SK_DEVICE void write_facts(Group& consumer, const TilePair& pair, Facts& facts) const {
    write_row_facts(consumer, p, pair, facts);
    cuda::write_words(consumer, pair, facts);
    if constexpr (kRelative) write_ends(consumer, p, pair, facts);
  }

  template <class Group>
  SK_DEVICE static void wait_for_second(Group& consumer, const Ring<kStages>& ring) {
    consumer.wait(consumer.shared().met_full[kStages], second_at(ring).parity);
  }

  // products = first . first^T, gradients of weights = second . second^T: rows of what stays
  template <class Group>
  SK_DEVICE void multiply(Group& consumer, const Ring<kStages>& ring, PerThread<Pair>& products,
                          PerThread<Pair>& gradients) const {
    Shared& shared = consumer.shared();
    if constexpr (kOfValues || kOneSecond) {
      begin_products(consumer, products);
    } else {
      begin_products(consumer, products, gradients);
    }
#pragma unroll
    for (int k = 0; k < Width / kStep; ++k) {
      multiply_rows(consumer, products, shared.own_first, shared.met_first, ring.stage, k);
    }
    if constexpr (kOneSecond) {
      commit_products(consumer);
      wait_for_second(consumer, ring);
      begin_products(consumer, gradients);
    }
    if constexpr (!kOfValues) {
#pragma unroll
      for (int k = 0; k < Width / kStep; ++k) {
        multiply_rows(consumer, gradients, shared.own_second, shared.met_second, second_at(ring).stage, k);
      }
    }
    commit_products(consumer);
    if constexpr (kOfValues) {
      wait_for_products<0>(consumer, products);
    } else {
      wait_for_products<0>(consumer, products, gradients);
    }
    if constexpr (kOneSecond) consumer.arrive(shared.met_empty[kStages]);
  }

  template <class Group, class Own, class Other>
  SK_DEVICE static void multiply_rows(Group& consumer, PerThread<Pair>& to, Own& own, Other& other, int stage, int k) {
    multiply_operands<S, Major::kInner, Major::kInner>(consumer, to, 0,
                                                       row_operand<kTile>(own, consumer.group() * kTileEntries, 0, k),
                                                       row_operand<kTile>(other, stage * kTileEntries, 0, k), k > 0);
  }

  // Whether a tile is followed by a stripe of the values' table, or of the keys'.
  template <bool OfValue, class Group>
  SK_DEVICE static bool follows(Group& consumer, int stage) {
    PerThread<int> follows;
    consumer.for_threads([&](int thread) { follows[thread] = consumer.shared().follows[2 * stage + !OfValue]; });
    return follows[0] != 0;
  }
  template <class Group>
  SK_DEVICE static void pass_stripe(Group& consumer, Ring<kStripes>& ring) {
    consumer.arrive(consumer.shared().stripe_empty[ring.stage]);
    ring.advance();
  }
  template <bool OfValue, class Group>
  SK_DEVICE static void leave_stripe(Group& consumer, int stage, Ring<kStripes>& ring) {
    if (!follows<OfValue>(consumer, stage)) return;
    consumer.wait(consumer.shared().stripe_full[ring.stage], ring.parity);  // or it would pass one twice
    pass_stripe(consumer, ring);
  }

  // What a relative table adds to products, or to gradients of weights.
  template <bool OfValue, class Group>
  SK_DEVICE void add_table(Group& consumer, const TilePair& pair, int stage, RelativeRowFacts& facts,
                           Ring<kStripes>& ring, PerThread<Pair>& to) const {
    const RelativeTable& table = table_of<OfValue>(p);
    if (!table) return;
    Shared& shared = consumer.shared();
    Rotated& own = shared.rotated[consumer.group()];
    if (follows<OfValue>(consumer, stage)) {
      consumer.wait(shared.stripe_full[ring.stage], ring.parity);
      const auto multiply = [&](auto& queries, int tile) {
        multiply_stripe<S, Width, kOfKeys>(consumer, queries, tile * kTileEntries, shared.stripes[ring.stage],
                                           own_block(consumer), own);
      };
      if (!beyond_table(table, pair.distance())) {
        if constexpr (kOfKeys) {
          multiply(OfValue ? shared.met_second : shared.met_first, stage);
        } else {
          multiply(OfValue ? shared.own_second : shared.own_first, consumer.group());
        }
      }
      if (OfValue || kOfKeys) pass_stripe(consumer, ring);  // dQ needs the keys' once more
    }
    consumer.for_threads([&](int thread) {
      const Pairs<kOfKeys> at(thread, warp_row<1>(thread));
      add_relative<OfValue>(table, pair.distance(), facts, own, at, to[thread]);
    });
  }
  // Of the stripe's, the first of the two that a consumer meets.
  template <class Group>
  SK_DEVICE static int own_block(Group& consumer) {
    return kOfKeys ? consumer.group() : kConsumers - 1 - consumer.group();
  }

  // What the keys' table adds to dQ: at its ends and beyond, sums for the end; inside, scores' gradients are rotated.
  template <class Group>
  SK_DEVICE void weigh_table(Group& consumer, const TilePair& pair, PerThread<Pair>& gradients, bool inside,
                             PerThread<EndSums>& ends, RotatedWeights& low, RotatedWeights& high) const {
    const RelativeTable& table = p.relative_key;
    if (!table) return;
    add_ends(consumer, table, pair.distance(), gradients, ends);
    if (!inside) return;
    rotate_weights<S>(consumer, gradients, consumer.shared().rotated[consumer.group()].weights, 0, low, high);
    settle(low);
    settle(high);
  }
  template <class Group>
  SK_DEVICE static void add_stripe(Group& consumer, PerThread<Sums>& sums, RotatedWeights& low, RotatedWeights& high,
                                   const Ring<kStripes>& ring) {
    auto& stripe = consumer.shared().stripes[ring.stage];
    begin_products(consumer, sums);
    multiply_block<S, Width>(consumer, sums, low, stripe, own_block(consumer));
    multiply_block<S, Width>(consumer, sums, high, stripe, own_block(consumer) + 1);
    commit_products(consumer);
    wait_for_products<0>(consumer, sums);
  }

  // Which pairs dropout keeps.
  template <class Group>
  SK_DEVICE void draw(Group& consumer, const TilePair& pair, PerThread<MmaBits>& kept) const {
    if constexpr (kScores != Scores::kPlain) {
      const auto first_row = [](int thread) {
        if constexpr (kRelative) compute_anew_from(thread);  // there are no registers to keep it in
        return warp_row<1>(thread);
      };
      std::conditional_t<kWide, AnewByThread<Group>, Group&> group{consumer};
      if (p.dropout) kept_pairs<kOfKeys>(group, p, pair, first_row, kept);
    }
  }

  template <class Group>
  SK_DEVICE void differentiate(Group& consumer, const TilePair& pair, RowFacts& facts, PerThread<MmaBits>& kept,
                               PerThread<Pair>& products, PerThread<Pair>& gradients) const {
    consumer.for_threads([&](int thread) {
      if constexpr (kWide) compute_anew_from(thread);
      const Pairs<kOfKeys> at(thread, warp_row<1>(thread));
      differentiate_pairs<kScores>(p, pair, facts, at, kept[thread], products[thread], gradients[thread]);
    });
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

}  // namespace seo_kernels::cuda::sm90
