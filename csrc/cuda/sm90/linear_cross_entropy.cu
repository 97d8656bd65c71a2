// linear_cross_entropy on warpgroups. Forward: a block goes over runs of classes, each with a tile of tokens; a thread
// keeps what it has seen of its rows' scores in registers until the run ends. Backward: products with epilogues.
#include "cuda/sm90/linear_cross_entropy.h"

#include "cuda/sm80/score_epilogues.h"
#include "cuda/sm80/score_statistics.h"
#include "cuda/sm90/matmul.h"

namespace seo_kernels::cuda::sm90 {
namespace {

template <class S, bool WeightTurned>
struct ScoreStatisticsWgmma {
  using Tiles = MatmulTile;
  using Steps = TileSteps<S, false, WeightTurned>;
  static constexpr int kThreads = warpgroup_threads(Tiles::kConsumers), kBlocksAtOnce = 1;
  using Shared = typename Steps::Shared;
  struct Rows {
    Seen of[2];  // rows g and g + 8 of a warp's
  };
  MatmulMaps maps;
  Raster raster;  // of tiles of tokens and slots
  int64_t blocks;
  int class_tiles, rows, columns;
  const int64_t* target;
  const float* bias;
  float *sums, *target_scores;

  template <class Block>
  SK_DEVICE void operator()(Block& block) const {
    Steps::init(block, block.shared());
    run_roles<Tiles::kConsumers>(
        block,
        [&](auto& producer) {
          producer.one_thread([&] {
            typename Steps::Stage ring;
            for_runs(producer.index(), [&](int row, int begin, int end, int64_t) {
#pragma unroll 1
              for (int tile = begin; tile < end; ++tile) {
                Steps::load(producer.shared(), maps, ring, row, tile * Tiles::kColumns);
              }
            });
          });
        },
        [&](auto& consumer) { consume(consumer); });
  }

 private:
  // Calls f(first row, first tile of classes, their end, slot).
  template <class F>
  SK_DEVICE void for_runs(int64_t block, F f) const {
    const int64_t runs = int64_t{raster.row_tiles} * raster.column_tiles;
#pragma unroll 1
    for (int64_t n = block; n < runs; n += blocks) {
      const Raster::At at = raster.at(n);
      const int slot = at.column_tile, slots = raster.column_tiles;  // few: products are below 2^31
      f(at.row_tile * Tiles::kRows, class_tiles * slot / slots, class_tiles * (slot + 1) / slots, slot);
    }
  }

  template <class Group>
  SK_DEVICE void consume(Group& consumer) const {
    typename Steps::Stage ring;
    for_runs(consumer.index(), [&](int first_row, int begin, int end, int64_t slot) {
      const int row = first_row + consumer.group() * ConsumerGrid::kRows;
      PerThread<Rows> seen;
      consumer.for_threads([&](int thread) { seen[thread] = {}; });
#pragma unroll 1
      for (int tile = begin; tile < end; ++tile) {
        PerThread<ConsumerGrid::Sums> scores;
        Steps::multiply(consumer, consumer.shared(), maps.steps, ring, scores);
        for_slices(consumer, scores, row, tile * Tiles::kColumns, [&](auto& slice, const auto& place) {
          if (bias) add_to_columns(consumer, slice, place, bias, columns);
          consumer.for_threads([&](int thread) {
#pragma unroll
            for (int h = 0; h < 2; ++h) {
              seen[thread].of[h].add(see_row(place, thread, 0, h, slice[thread], rows, columns, target, target_scores));
            }
          });
        });
      }
      write(consumer, seen, row, slot);
    });
  }

  // What the four threads of a row have seen goes together.
  template <class Group>
  SK_DEVICE void write(Group& consumer, PerThread<Rows>& seen, int first_row, int64_t slot) const {
    consumer.template combine<4>(seen, [](Rows a, const Rows& b) {
#pragma unroll
      for (int h = 0; h < 2; ++h) a.of[h].add(b.of[h]);
      return a;
    });
    consumer.for_threads([&](int thread) {
      if (Lane(thread).column != 0) return;
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int row = Placement<ConsumerGrid>{first_row, 0}.row(thread, 0, h);
        if (row >= rows) continue;
        store_chunk<4>(sums + 4 * (slot * rows + row), bits_as<Chunk<float, 4>>(as_pack(seen[thread].of[h])));
      }
    });
  }
};

}  // namespace

void linear_cross_entropy_forward(const ClassLossForwardParams& p, const sm80::ClassScores& scores,
                                  const sm80::ScoreSlots& slots, Stream stream) {
  const auto product = MatmulParams::with_left_rows(scores.hidden, scores.weight);
  const char* op = "linear_cross_entropy_forward";
  const Raster tiles = raster_of<TileGrid>(product.rows, product.columns);
  const Raster raster{tiles.row_tiles, static_cast<int>(slots.count)};
  const int64_t blocks = std::min(raster.tiles(), resident_blocks());
  with_16_bits(product.dtype, [&](auto stored) {
    const auto with_layout = [&](auto turned) {
      using Kernel = ScoreStatisticsWgmma<decltype(stored), decltype(turned)::value>;
      launch(Kernel{Kernel::Steps::maps_of(product.terms[0], product.dtype, op), raster, blocks, tiles.column_tiles,
                    product.rows, product.columns, p.target, scores.bias, slots.sums, slots.target_scores},
             blocks, stream, op);
    };
    product.right_turned ? with_layout(std::true_type{}) : with_layout(std::false_type{});
  });
  sm80::combine_slots(p, slots, stream);
}

void score_gradients(const sm80::ScoreGradientsParams& p, Stream stream) {
  launch_on_warpgroups<LeftLayouts::kRows>(
      MatmulParams::with_left_rows(p.scores.hidden, p.scores.weight),
      [&](auto stored) { return score_gradient<decltype(stored)>(p); }, stream, "linear_cross_entropy_backward");
}

void add_product(const sm80::AddProductParams& p, Stream stream) {
  launch_on_warpgroups<LeftLayouts::kRows>(
      p.product, [&](auto stored) { return add_to_sums<decltype(stored)>(p); }, stream,
      "linear_cross_entropy_backward");
}

}  // namespace seo_kernels::cuda::sm90
