// linear_cross_entropy on tensor cores. Forward: a block goes over a run of classes with a tile of tokens, and keeps
// what has been seen of each token's scores. Backward: the scores of a block of classes again, differentiated in the
// product's epilogue; and the hidden states' gradient, added up over blocks of classes in the epilogue of its own.
#include "cuda/sm80/linear_cross_entropy.h"

#include "cuda/log_sum_exp.h"
#include "cuda/sm80/matmul_store.h"

namespace seo_kernels::cuda::sm80 {
namespace {

using Seen = ScoreSums<float>;  // of a token's scores; 16 bytes in memory

SK_DEVICE Pack<float, 4> as_pack(const Seen& seen) { return {{seen.largest, seen.sum, seen.factors, seen.weighted}}; }
SK_DEVICE Seen as_seen(const Pack<float, 4>& pack) { return {pack.at[0], pack.at[1], pack.at[2], pack.at[3]}; }

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
        block.for_threads([&](int thread) { seen[thread] = own_of(place, thread, m, h, scores[thread]); });
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

  // A thread's scores of one row. Their sum is relative to the largest, as ScoreSums says.
  SK_DEVICE Seen own_of(const Placement<Grid>& place, int thread, int m, int h,
                        const typename Grid::Sums& scores) const {
    const int row = place.row(thread, m, h);
    const int64_t wanted = row < product.rows ? target[row] : -1;
    Seen seen;
#pragma unroll
    for (int n = 0; n < Grid::kN; ++n) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const float x = scores.at[m][n].at[2 * h + c];
        const int column = place.column(thread, n, c);
        if (column < product.columns && x > seen.largest) seen.largest = x;
        if (column < product.columns && column == wanted) target_scores[row] = x;
      }
    }
    const float shift = seen.largest == -INFINITY ? 0.0f : seen.largest;
#pragma unroll
    for (int n = 0; n < Grid::kN; ++n) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        if (place.column(thread, n, c) >= product.columns) continue;
        const float x = scores.at[m][n].at[2 * h + c] - shift;
        seen.sum += exponential(x);
        seen.factors += 1.0f;
        seen.weighted += x;
      }
    }
    return seen;
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

// Scores become their gradient:  (of_softmax) p_c - (of_each) - (of_target) [c = target]
template <class S>
struct ScoreGradient {
  struct Shared {};
  ClassLossBackwardParams p;
  const float* bias;
  int first, count;  // classes
  MatmulOut out;

  template <class Block, class Grid, class Memory>
  SK_DEVICE void operator()(Block& block, PerThread<typename Grid::Sums>& scores, const Placement<Grid>& place,
                            Memory& memory, Shared&) const {
    if (bias) add_to_columns(block, scores, place, bias, count);
    block.for_threads([&](int thread) {
#pragma unroll
      for (int m = 0; m < Grid::kM; ++m) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const int row = place.row(thread, m, h);
          if (row >= out.rows) continue;
          const Coefficients by(p, row);
          const int64_t at = p.target[row] - first;
#pragma unroll
          for (int n = 0; n < Grid::kN; ++n) {
#pragma unroll
            for (int c = 0; c < 2; ++c) {
              float& x = scores[thread].at[m][n].at[2 * h + c];
              const int column = place.column(thread, n, c);
              const float gradient = by.of_softmax * by.lse.probability(x) - by.of_each;
              x = by.ignored || column >= count ? 0.0f : gradient - (column == at ? by.of_target : 0.0f);
            }
          }
        }
      }
    });
    narrow_tile<S>(block, scores, place, memory, out.rows, out.columns,
                   [&](int row, int column, const Pack<S, 8>& pack) { out.put(row, column, pack); });
  }

 private:
  struct Coefficients {
    bool ignored;
    Normaliser<float> lse;
    float of_softmax, of_target, of_each;

    SK_DEVICE Coefficients(const ClassLossBackwardParams& p, int row)
        : ignored(p.target[row] == p.ignore_index), lse(normaliser_at<float>(p.lse, row)) {
      const bool known = p.target[row] >= 0 && p.target[row] < p.classes;
      const float gradient = known ? static_cast<const float*>(p.grad_losses)[row] : NAN;
      const float smoothing = static_cast<float>(p.label_smoothing);
      of_target = gradient * (1 - smoothing);
      of_softmax = gradient;
      of_each = gradient * smoothing / static_cast<float>(p.classes);
    }
  };
};

template <class S>
struct AddProduct {
  struct Shared {};
  float* sums;
  int64_t stride;
  bool begins;
  int rows, columns;
  MatmulOut out;

  struct alignas(8) Two {
    float at[2];
  };

  template <class Block, class Grid, class Memory>
  SK_DEVICE void operator()(Block& block, PerThread<typename Grid::Sums>& product, const Placement<Grid>& place,
                            Memory& memory, Shared&) const {
    block.for_threads([&](int thread) {
#pragma unroll
      for (int m = 0; m < Grid::kM; ++m) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const int row = place.row(thread, m, h);
          if (row >= rows) continue;
#pragma unroll
          for (int n = 0; n < Grid::kN; ++n) {
            const int column = place.column(thread, n, 0);
            if (column >= columns) continue;
            float* x = product[thread].at[m][n].at + 2 * h;
            Two* at = reinterpret_cast<Two*>(sums + row * stride + column);
            Two two{{x[0], x[1]}};
            if (!begins) {
              const Two before = *at;
              two = {{before.at[0] + x[0], before.at[1] + x[1]}};
            }
            x[0] = two.at[0];
            x[1] = two.at[1];
            if (!out) *at = two;
          }
        }
      }
    });
    if (!out) return;
    narrow_tile<S>(block, product, place, memory, rows, columns,
                   [&](int row, int column, const Pack<S, 8>& pack) { out.put(row, column, pack); });
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
  const int64_t blocks = (p.rows + CombineSlots::kThreads - 1) / CombineSlots::kThreads;
  launch(CombineSlots{p, slots}, blocks, stream, "linear_cross_entropy_forward");
}

void score_gradients(const ScoreGradientsParams& p, Stream stream) {
  const auto product = MatmulParams::with_left_rows(p.scores.hidden, p.scores.weight);
  const int first = static_cast<int>(p.first), count = product.columns;
  const MatmulOut out(p.gradients);
  launch_matmul<LeftLayouts::kRows>(
      product, [&](auto stored) { return ScoreGradient<decltype(stored)>{p.loss, p.scores.bias, first, count, out}; },
      stream, "linear_cross_entropy_backward");
}

void add_product(const AddProductParams& p, Stream stream) {
  const MatmulOut out(p.out);
  launch_matmul<LeftLayouts::kRows>(
      p.product,
      [&](auto stored) {
        return AddProduct<decltype(stored)>{p.sums, p.stride, p.begins, p.product.rows, p.product.columns, out};
      },
      stream, "linear_cross_entropy_backward");
}

}  // namespace seo_kernels::cuda::sm80
