// What relative keys and values add to the steps of attention's forward on warpgroups, panel by panel; of band.h.
#pragma once

#include "cuda/sm90/attention_steps.h"
#include "cuda/sm90/band.h"

namespace seo_kernels::cuda::sm90 {

constexpr int kWidestRelative = 128;  // heads: shared memory has no room for wider ones

// Shared memory that begins as without tables.
template <class S, int Width, int Consumers, class Rest>
struct WithBands : Rest {
  Barrier key_blocks_full, key_blocks_empty, value_blocks_full, value_blocks_empty;
  BandRing<S, Width> key_blocks, value_blocks;
  SwizzledArray<S, Consumers * kTile * kTile> rotated_weights;
  SharedArray<float, Consumers * kTile * kTile> block_products;

  SK_DEVICE void init_barriers() {
    init_barrier(key_blocks_full, kGroupArrivals);
    init_barrier(value_blocks_full, kGroupArrivals);
    init_barrier(key_blocks_empty, Consumers * kGroupArrivals);
    init_barrier(value_blocks_empty, Consumers * kGroupArrivals);
  }
};

// The producer's part.
template <class S, int Width>
class RelativeLoads {
 public:
  // A tile: what the rings hold is of the one before.
  SK_DEVICE void begin() { keys_.panel = values_.panel = -kBandBlocks; }

  template <class Group>
  SK_DEVICE void load_keys(Group& producer, const AttentionParams& p, const TilePlace& at, const TilePair& pair) {
    auto& shared = producer.shared();
    load(producer, p, at, pair, shared.key_blocks_full, shared.key_blocks_empty, shared.key_blocks, p.relative_key,
         p.narrow_key, p.dim, keys_);
  }
  template <class Group>
  SK_DEVICE void load_values(Group& producer, const AttentionParams& p, const TilePlace& at, const TilePair& pair) {
    auto& shared = producer.shared();
    load(producer, p, at, pair, shared.value_blocks_full, shared.value_blocks_empty, shared.value_blocks,
         p.relative_value, p.narrow_value, p.value_dim, values_);
  }

 private:
  template <class Group, class Ring>
  SK_DEVICE static void load(Group& producer, const AttentionParams& p, const TilePlace& at, const TilePair& pair,
                             Barrier& full, Barrier& empty, Ring& ring, const RelativeTable& table, const void* narrow,
                             int64_t width, BandFilling& filling) {
    // as pair.distance(), without a register more
    const int64_t distance = pair.key_begin() - (at.tile * p.plan.tile_rows + p.query_offset);
    if (!meets_band(table, distance)) return;
    producer.wait(empty, filling.parity ^= 1);
    bring_blocks<S, Width>(producer, ring, table, narrow, at.head, pair.key_begin(), distance, filling,
                           static_cast<int>(width));
    producer.arrive(full);
  }

  BandFilling keys_, values_;
};

// A consumer's part: what it knows from one step to the next.
template <class S, int Width>
class RelativeSteps {
 public:
  using Products = Tile<1, kMmaColumns>;
  using Sums = Tile<1, Width / 8>;

  // A tile.
  template <class Group>
  SK_DEVICE void begin(Group& consumer) {
    products_of_ = -1;
    consumer.for_threads([&](int thread) { ends_[thread] = EndSums{}; });
  }

  // products += queries . relative keys. Products with `sums` may be under way: they come first.
  template <class Group>
  SK_DEVICE void add_keys(Group& consumer, const AttentionParams& p, const TilePair& pair,
                          PerThread<Products>& products, PerThread<Sums>& sums) {
    const RelativeTable& table = p.relative_key;
    if (!table) return;
    auto& shared = consumer.shared();
    const int group = consumer.group(), kept = group * kTile * kTile;
    const int64_t distance = pair.distance() - group * kTile;
    const bool blocks = meets_band(table, pair.distance());
    if (blocks) {
      consumer.wait(shared.key_blocks_full, key_parity_);
      key_parity_ ^= 1;
    }
    if (beyond_table(table, distance)) {
      consumer.for_threads([&](int thread) {
        const Pairs<false> at(thread, group * kGroupRows + warp_row<1>(thread));
        add_band_end(
            p, pair, at, above_table(table, distance), [](const RowEnds<float>& ends) { return ends.key; },
            products[thread]);
      });
    } else {
      PerThread<Products> found;
      const int low = low_block(pair.key_begin(), group);
      const auto find = [&](int block) {
        wait_for_products<0>(consumer, sums);  // their left operands leave registers
        begin_block_products<S, Width>(consumer, found, shared.query, group * kGroupRows * Width, shared.key_blocks,
                                       block);
        wait_for_products<0>(consumer, found);
        put_block_products(consumer, found, shared.block_products, kept);
      };
      const auto add = [&](bool high) {
        consumer.for_threads(
            [&](int thread) { add_block_products(shared.block_products, kept, thread, high, products[thread]); });
      };
      if (products_of_ != low) find(low);
      add(false);
      find(low + 1);
      add(true);
      products_of_ = low + 1;
    }
    if (blocks) consumer.arrive(shared.key_blocks_empty);
  }

  // Weights of a step, as relative values are multiplied with them in the next; where those are all one end of the
  // table, their sums. factors: of what was summed before.
  template <class Group>
  SK_DEVICE void take_weights(Group& consumer, const AttentionParams& p, const TilePair& pair,
                              PerThread<PerRow<1>>& factors, PerThread<Products>& weights) {
    const RelativeTable& table = p.relative_value;
    if (!table) return;
    const int group = consumer.group();
    const int64_t distance = pair.distance() - group * kTile;
    const bool beyond = beyond_table(table, distance);
    blocks_ = meets_band(table, pair.distance());
    band_ = !beyond;
    weights_of_ = low_block(pair.key_begin(), group);
    consumer.for_threads([&](int thread) {
      EndSums& ends = ends_[thread];
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        ends.below[h] *= factors[thread].at[0][h];
        ends.above[h] *= factors[thread].at[0][h];
      }
      if (beyond) ends.add(weights[thread], above_table(table, distance));
    });
    if (beyond) return;
    rotate_weights<S>(consumer, weights, consumer.shared().rotated_weights, group * kTile * kTile, low_, high_);
    settle(low_);
    settle(high_);
  }

  // Before the products with values.
  template <class Group>
  SK_DEVICE void wait_for_values(Group& consumer) {
    if (!blocks_) return;
    consumer.wait(consumer.shared().value_blocks_full, value_parity_);
    value_parity_ ^= 1;
  }
  // Within their batch: sums += weights . relative values
  template <class Group>
  SK_DEVICE void multiply_values(Group& consumer, PerThread<Sums>& sums) {
    if (!band_) return;
    auto& ring = consumer.shared().value_blocks;
    multiply_block<S, Width>(consumer, sums, low_, ring, weights_of_);
    multiply_block<S, Width>(consumer, sums, high_, ring, weights_of_ + 1);
  }
  // After it.
  template <class Group>
  SK_DEVICE void release_values(Group& consumer) {
    if (blocks_) consumer.arrive(consumer.shared().value_blocks_empty);
  }

  // After the last step.
  template <class Group>
  SK_DEVICE void add_ends(Group& consumer, const AttentionParams& p, const TilePair& pair, PerThread<Sums>& sums) {
    if (!p.relative_value) return;
    add_end_rows(consumer, sums, ends_, HeadTable<float>(p.relative_value, pair.head(), p.value_dim));
  }

 private:
  PerThread<EndSums> ends_;
  RotatedWeights low_, high_;
  int products_of_ = -1;                // which block's products are kept
  int weights_of_ = 0;                  // the low block of the weights
  bool blocks_ = false, band_ = false;  // before the weights' panel, the tile and this consumer meet the table
  int key_parity_ = 0, value_parity_ = 0;
};

}  // namespace seo_kernels::cuda::sm90
