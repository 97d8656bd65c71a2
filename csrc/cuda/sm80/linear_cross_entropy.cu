// linear_cross_entropy on tensor cores. Forward: a block goes over a run of classes with a tile of tokens, and keeps
// what has been seen of each token's scores. Backward: the scores of a block of classes again, differentiated in the
// product's epilogue; and the hidden states' gradient, added up over blocks of classes in the epilogue of its own.
#include "cuda/sm80/linear_cross_entropy.h"

#include "cuda/sm80/score_epilogues.h"
#include "cuda/sm80/score_statistics.h"

namespace seo_kernels::cuda::sm80 {
namespace {

template <class S, bool WeightTurned>
struct ScoreStatistics {
  using Grid = MatmulGrid;
  using OfTile = TileProduct<S, Grid, false, WeightTurned>;
  static constexpr int kThreads = Grid::kThreads;
  struct Shared {
    SharedArray<S, OfTile::kEntries> operands;
    SharedArray<float, 4 * Grid::kRows> seen;  // of a row: the thread's of that number
  };
  MatmulParams product;
  Raster raster;  // of tiles of tokens and slots
  int class_tiles;
  const int64_t* target;
  const float* bias;
  float *sums, *target_scores;

  template <class Block>
  SK_DEVICE void operator()(Block& block) const {
    Shared& shared = block.shared();
    const Raster::At at = raster.at(block.index());
    const int64_t slot = at.column_tile, slots = raster.column_tiles;
    const int first_row = at.row_tile * Grid::kRows;
    const int begin = static_cast<int>(class_tiles * slot / slots);
    const int end = static_cast<int>(class_tiles * (slot + 1) / slots);
    block.for_threads([&](int thread) {
      if (thread < Grid::kRows) shared.seen.template set_pack<4>(4 * thread, as_pack(Seen{}));
    });
    PerThread<typename Grid::Sums> scores;
#pragma unroll 1
    for (int tile = begin; tile < end; ++tile) {
      const Placement<Grid> place{first_row, tile * Grid::kColumns};
      OfTile::run(block, shared.operands, product, place, scores);
      if (bias) add_to_columns(block, scores, place, bias, product.columns);
      see(block, place, scores);
    }
    block.for_threads([&](int thread) {
      const int row = first_row + thread;
      if (thread >= Grid::kRows || row >= product.rows) return;
      const auto pack = shared.seen.template pack<4>(4 * thread);
      store_chunk<4>(sums + 4 * (slot * product.rows + row), bits_as<Chunk<float, 4>>(pack));
    });
  }

 private:
  // What the threads of a row see goes together: those of a warp, then, in order, the warps that share rows.
  template <class Block>
  SK_DEVICE void see(Block& block, const Placement<Grid>& place, PerThread<typename Grid::Sums>& scores) const {
    Shared& shared = block.shared();
#pragma unroll
    for (int m = 0; m < Grid::kM; ++m) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        PerThread<Seen> seen;
        block.for_threads([&](int thread) {
          seen[thread] =
              see_row(place, thread, m, h, scores[thread], product.rows, product.columns, target, target_scores);
        });
        block.template combine<4>(seen, [](Seen a, const Seen& b) {
          a.add(b);
          return a;
        });
        block.for_threads([&](int thread) {
          if (Lane(thread).column != 0) return;
          const int entry = place.tile_row(thread, m, h) * Grid::kColumnWarps + Grid::column_warp(thread);
          shared.operands.template set_pack<8>(8 * entry, bits_as<Pack<S, 8>>(as_pack(seen[thread])));
        });
      }
    }
    block.sync();
    block.for_threads([&](int thread) {
      if (thread >= Grid::kRows) return;
      Seen all = as_seen(shared.seen.template pack<4>(4 * thread));
#pragma unroll
      for (int w = 0; w < Grid::kColumnWarps; ++w) {
        const int entry = thread * Grid::kColumnWarps + w;
        all.add(as_seen(bits_as<Pack<float, 4>>(shared.operands.template pack<8>(8 * entry))));
      }
      shared.seen.template set_pack<4>(4 * thread, as_pack(all));
    });
    block.sync();  // it is read: the next tile's operands come
  }
};

// Of all slots of a token, in order.
struct CombineSlots {
  struct Shared {};
  static constexpr int kThreads = 128;
  ClassLossForwardParams p;
  ScoreSlots slots;

  template <class Block>
  SK_DEVICE void operator()(Block& block) const {
    block.for_threads([&](int thread) {
      const int64_t row = block.index() * kThreads + thread;
      if (row >= p.rows) return;
      Seen all;
      for (int64_t slot = 0; slot < slots.count; ++slot) {
        all.add(as_seen(bits_as<Pack<float, 4>>(load_chunk<4>(slots.sums + 4 * (slot * p.rows + row)))));
      }
      store_normaliser(all.normaliser(), p.lse, row);
      static_cast<float*>(p.losses)[row] = loss(row, all);
    });
  }

 private:
  SK_DEVICE float loss(int64_t row, const Seen& all) const {
    const int64_t target = p.target[row];
    if (target == p.ignore_index) return 0;
    if (target < 0 || target >= p.classes) return NAN;
    const float l = all.normaliser().surprise(slots.target_scores[row]);
    if (!(p.label_smoothing > 0)) return l;
    const float smoothing = static_cast<float>(p.label_smoothing);
    return (1 - smoothing) * l + smoothing / static_cast<float>(p.classes) * all.weighted_surprise();
  }
};

template <class F>
void with_statistics_kernel(DType dtype, bool weight_turned, F f) {
  with_16_bits(dtype, [&](auto stored) {
    using S = decltype(stored);
    weight_turned ? f(std::type_identity<ScoreStatistics<S, true>>{})
                  : f(std::type_identity<ScoreStatistics<S, false>>{});
  });
}

}  // namespace

int64_t score_slots(int64_t tokens, int64_t classes) {
#if defined(SK_HOST_EXECUTOR)
  constexpr int64_t most = 2;  // so that small problems have tiles of classes to go over
#else
  constexpr int64_t most = 128;
#endif
  constexpr int64_t blocks = 1024;  // some for each multiprocessor
  const Raster tiles = raster_of<MatmulGrid>(static_cast<int>(tokens), static_cast<int>(classes));
  const int64_t wanted = std::max<int64_t>(1, blocks / tiles.row_tiles);
  return std::min({wanted, most, int64_t{tiles.column_tiles}});
}

int64_t linear_cross_entropy_shared_bytes() { return sizeof(ScoreStatistics<BFloat16, false>::Shared); }

void linear_cross_entropy_forward(const ClassLossForwardParams& p, const ClassScores& scores, const ScoreSlots& slots,
                                  Stream stream) {
  const auto product = MatmulParams::with_left_rows(scores.hidden, scores.weight);
  const Raster tiles = raster_of<MatmulGrid>(product.rows, product.columns);
  const Raster raster{tiles.row_tiles, static_cast<int>(slots.count)};
  with_statistics_kernel(product.dtype, product.right_turned, [&](auto kernel) {
    using Kernel = typename decltype(kernel)::type;
    launch(Kernel{product, raster, tiles.column_tiles, p.target, scores.bias, slots.sums, slots.target_scores},
           raster.tiles(), stream, "linear_cross_entropy_forward");
  });
  combine_slots(p, slots, stream);
}

void combine_slots(const ClassLossForwardParams& p, const ScoreSlots& slots, Stream stream) {
  const int64_t blocks = (p.rows + CombineSlots::kThreads - 1) / CombineSlots::kThreads;
  launch(CombineSlots{p, slots}, blocks, stream, "linear_cross_entropy_forward");
}

void score_gradients(const ScoreGradientsParams& p, Stream stream) {
  launch_matmul<LeftLayouts::kRows>(
      MatmulParams::with_left_rows(p.scores.hidden, p.scores.weight),
      [&](auto stored) { return score_gradient<decltype(stored)>(p); }, stream, "linear_cross_entropy_backward");
}

void add_product(const AddProductParams& p, Stream stream) {
  launch_matmul<LeftLayouts::kRows>(
      p.product, [&](auto stored) { return add_to_sums<decltype(stored)>(p); }, stream,
      "linear_cross_entropy_backward");
}

}  // namespace seo_kernels::cuda::sm80
