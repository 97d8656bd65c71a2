// The gradient of an additive mask: the scores' gradients, summed over whatever the mask broadcasts over. A block has a
// tile of the mask's entries.
#include "cuda/attention/scores.h"

namespace seo_kernels::cuda {
namespace {

template <class S>
struct AttentionMaskGradient {
  using Acc = AccOf<S>;
  using Shared = AttentionShared<Acc>;
  static constexpr int kThreads = kTileThreads;
  AttentionBackwardParams p;

  // Tiles of queries, and panels of keys, that the mask tells apart.
  SK_DEVICE int64_t tiles() const { return p.mask_sizes[2] == 1 ? 1 : p.plan.tiles; }
  SK_DEVICE int64_t panels() const { return p.mask_sizes[3] == 1 ? 1 : p.plan.panels; }

  template <class Block>
  SK_DEVICE void operator()(Block& block) const {
    const int64_t panel = block.index() % panels(), tile = block.index() / panels() % tiles();
    const int64_t index = block.index() / panels() / tiles();
    const int64_t mask_head = index % p.mask_sizes[1], mask_batch = index / p.mask_sizes[1];
    PerThread<MicroTile<Acc>> sums;
    block.for_threads([&](int thread) { sums[thread] = MicroTile<Acc>{}; });
    TilePair pair(p);
#pragma unroll 1
    for (int64_t batch = first(0, mask_batch); batch < last(0, mask_batch, p.batch); ++batch) {
#pragma unroll 1
      for (int64_t head = first(1, mask_head); head < last(1, mask_head, p.query_heads); ++head) {
#pragma unroll 1
        for (int64_t t = first(2, tile); t < last(2, tile, p.plan.tiles); ++t) {
          pair.set_queries(batch, head, t);
          pair.for_panels(static_cast<int>(first(3, panel)), static_cast<int>(last(3, panel, p.plan.panels)),
                          [&] { add_pair(block, pair, sums); });
        }
      }
    }
    store(block, (mask_batch * p.mask_sizes[1] + mask_head) * p.mask_sizes[2], tile, panel, sums);
  }

 private:
  // What the mask does not tell apart is gone over, from 0 to `count`.
  SK_DEVICE int64_t first(int dimension, int64_t own) const { return p.mask_sizes[dimension] == 1 ? 0 : own; }
  SK_DEVICE int64_t last(int dimension, int64_t own, int64_t count) const {
    return p.mask_sizes[dimension] == 1 ? count : own + 1;
  }

  template <class Block>
  SK_DEVICE void add_pair(Block& block, const TilePair& pair, PerThread<MicroTile<Acc>>& sums) const {
    PerThread<MicroTile<Acc>> products, gradients;
    pair.find_words(block);
    score_products<S>(block, p, pair, products);
    weight_gradients<S>(block, p, pair, gradients);
    differentiate(block, p, pair, products, gradients, [](const Place&, int, const Acc(&)[kColumns]) {});
    block.for_threads([&](int thread) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
#pragma unroll
        for (int c = 0; c < kColumns; ++c) sums[thread].at[r][c] += gradients[thread].at[r][c];
      }
    });
  }

  // Rows that the mask does not tell apart are added up by 64 threads, then columns.
  template <class Block>
  SK_DEVICE void store(Block& block, int64_t rows_before, int64_t tile, int64_t panel,
                       PerThread<MicroTile<Acc>>& sums) const {
    auto& memory = block.shared().memory;
    const bool one_row = p.mask_sizes[2] == 1, one_column = p.mask_sizes[3] == 1;
    const int64_t row_begin = one_row ? 0 : tile * p.plan.tile_rows, key_begin = one_column ? 0 : panel * kTile;
    const int64_t tile_rows = one_row ? 1 : p.plan.tile_rows;
    block.sync();
    block.for_threads([&](int thread) { put_matrix<false>(memory, Place(thread), sums[thread]); });
    block.sync();
    if (one_row) {
      block.for_threads([&](int thread) {
        if (thread >= kTile) return;
        Acc sum = 0;
        for (int r = 0; r < kTile; ++r) sum += memory[r * kLd + thread];
        memory[thread] = sum;
      });
      block.sync();
    }
    block.for_threads([&](int thread) {
      for (int at = thread; at < (one_row ? 1 : kTile) * (one_column ? 1 : kTile); at += kThreads) {
        const int row = one_column ? at : at / kTile, column = one_column ? 0 : at % kTile;
        if (row >= tile_rows || row_begin + row >= p.mask_sizes[2] || key_begin + column >= p.mask_sizes[3]) continue;
        Acc sum = memory[row * kLd + column];
        for (int c = 1; one_column && c < kTile; ++c) sum += memory[row * kLd + c];
        static_cast<Acc*>(p.grad_mask)[(rows_before + row_begin + row) * p.mask_sizes[3] + key_begin + column] = sum;
      }
    });
  }
};

}  // namespace

void attention_mask_gradient(const AttentionBackwardParams& p, Stream stream) {
  with_dtype(p.dtype, [&](auto stored) {
    const AttentionMaskGradient<decltype(stored)> kernel{p};
    const int64_t tiles = p.mask_sizes[2] == 1 ? 1 : p.plan.tiles, panels = p.mask_sizes[3] == 1 ? 1 : p.plan.panels;
    launch(kernel, p.mask_sizes[0] * p.mask_sizes[1] * tiles * panels, stream, "attention_backward: mask");
  });
}

}  // namespace seo_kernels::cuda
