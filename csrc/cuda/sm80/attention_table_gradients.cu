// Gradients of relative tables on tensor cores. A block is a slot: it goes over tiles of queries of one head, and of
// their panels, and adds to a copy of the table of its own. Weights (or gradients of scores), askew as the table's rows
// lie before the tile, turned, times gradients of outputs (or queries) are what a tile adds. All that is further away
// than the table reaches meets its first or last row: rows' sums, multiplied at the end of a tile.
#include "cuda/sm80/attention.h"
#include "cuda/sm80/differentiate.h"
#include "cuda/sm80/slots.h"

namespace seo_kernels::cuda::sm80 {
namespace {

// A launch for each table: registers hold the sums of one, and that for values needs no gradients of weights.
template <class S, int Width, bool OfKeys, Scores kScores>
struct AttentionTableGradientsMma {
  static constexpr int kThreads = kMmaThreads, kBlocksAtOnce = blocks_at_once(Width, kScores);
  struct Shared : BandOf<S, Width, kScores> {
    SharedArray<S, kTile * Width> query, grad_out, key, value;
    RowFacts facts;
  };
  using Pair = Tile<1, kMmaColumns>;
  AttentionBackwardParams p;

  template <class Block>
  SK_DEVICE void operator()(Block& block) const {
    clear_band_weights(block, block.shared().band);
    TilePair pair(p);
    for_slot_tiles(p, block.index(), pair, [&] { run_tile(block, pair); });
  }

 private:
  SK_DEVICE const RelativeTable& table() const { return OfKeys ? p.relative_key : p.relative_value; }
  SK_DEVICE int width() const { return static_cast<int>(OfKeys ? p.dim : p.value_dim); }
  SK_DEVICE float factor() const { return OfKeys ? static_cast<float>(p.scale) : 1.0f; }
  SK_DEVICE bool by_gradient() const { return OfKeys && p.grad_out; }
  SK_DEVICE float* slot_rows(int64_t slot) const {
    return static_cast<float*>(OfKeys ? p.slot_relative_key : p.slot_relative_value) + slot * table().rows() * width();
  }
  SK_DEVICE RowRun<S> right_rows(const TilePair& pair) const {
    return OfKeys ? queries_of<S>(p.query, pair, p.dim) : queries_of<S>(p.grad_out, pair, p.value_dim);
  }

  template <class Block>
  SK_DEVICE void run_tile(Block& block, TilePair& pair) const {
    Shared& shared = block.shared();
    block.sync();  // rows and facts of the tile before are read
    stage_run<kTile, Width>(block, shared.query, queries_of<S>(p.query, pair, p.dim));
    if (p.grad_out) stage_run<kTile, Width>(block, shared.grad_out, queries_of<S>(p.grad_out, pair, p.value_dim));
    write_row_facts(block, p, pair, shared.facts);
    PerThread<EndSums> ends;
    block.for_threads([&](int thread) { ends[thread] = EndSums{}; });
    PanelCursor cursor(p.plan, pair.head(), pair.tile());
    bool more = cursor.next(pair);
    if (more) stage_panel(block, pair);
    commit_copies(block);
#pragma unroll 1
    while (more) {
      write_words(block, pair, shared.facts);
      wait_for_copies<0>(block);
      block.sync();  // all is there, weights and words before are read
      PerThread<Pair> products, gradients;
      multiply_by_queries<S, Width, kScores>(block, p, pair, shared.key, shared.value, by_gradient(), products,
                                             gradients);
      differentiate<kScores, false>(block, p, pair, products, gradients);
      const int64_t distance = pair.distance();
      const bool beyond = beyond_table(table(), distance);
      PerThread<Pair>& weights = OfKeys ? gradients : products;
      block.for_threads([&](int thread) {
        if (beyond) return ends[thread].add(weights[thread], above_table(table(), distance));
        const Pairs<false> at(thread, warp_row<1>(thread));
        ends[thread].add_outside(weights[thread], at, distance, table().max_distance);
      });
      if (!beyond) put_band_weights<S>(block, weights, shared.band);
      block.sync();  // the weights are there, keys and values are read
      more = cursor.next(pair);
      if (more) stage_panel(block, pair);
      commit_copies(block);
      if (beyond) continue;
      add_half(block, distance, 0);
      add_half(block, distance, 1);
    }
    wait_for_copies<0>(block);
    block.sync();  // products before the band are read
    add_ends(block, pair, ends);
  }

  template <class Block>
  SK_DEVICE void stage_panel(Block& block, const TilePair& pair) const {
    Shared& shared = block.shared();
    stage_run<kTile, Width>(block, shared.key, keys_of<S>(p.key, pair, p.dim));
    if (by_gradient()) stage_run<kTile, Width>(block, shared.value, keys_of<S>(p.value, pair, p.value_dim));
  }

  // The slot's rows that half of the band stands for, inside (-R, R).
  template <class Block>
  SK_DEVICE void add_half(Block& block, int64_t distance, int half) const {
    Shared& shared = block.shared();
    const int64_t first = distance - (kTile - 1) + half * kTile, reach = table().max_distance;
    if (first >= reach || first + kTile - 1 <= -reach) return;
    PerThread<Tile<1, Width / 8>> sums;
    block.for_threads([&](int thread) { sums[thread] = {}; });
    auto& right = OfKeys ? shared.query : shared.grad_out;
    add_band_gradient<S, Width>(block, sums, shared.band, right, half, steps_of(width()));
    float* rows = slot_rows(block.index());
    block.for_threads([&](int thread) {
      const Lane lane(thread);
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int64_t d = first + warp_row<1>(thread) + lane.row + 8 * h;
        if (d <= -reach || d >= reach) continue;
        float* row = rows + (d + reach) * width();
#pragma unroll
        for (int n = 0; n < Width / 8; ++n) {
#pragma unroll
          for (int c = 0; c < 2; ++c) {
            const int column = 8 * n + lane.column + c;
            if (column < width()) row[column] += factor() * sums[thread].at[0][n].at[2 * h + c];
          }
        }
      }
    });
  }

  template <class Block>
  SK_DEVICE void add_ends(Block& block, const TilePair& pair, PerThread<EndSums>& ends) const {
    auto& sums = block.shared().band.products;  // of rows: below, then above
    block.template combine<4>(ends, add_end_sums);
    block.for_threads([&](int thread) {
      const Lane lane(thread);
      if (lane.column != 0) return;
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int row = warp_row<1>(thread) + lane.row + 8 * h;
        sums[row] = ends[thread].below[h];
        sums[kTile + row] = ends[thread].above[h];
      }
    });
    block.sync();
    const RowRun<S> run = right_rows(pair);
    float* rows = slot_rows(block.index());
    block.for_threads([&](int thread) {
#pragma unroll 1
      for (int column = thread; column < width(); column += kMmaThreads) {
        float below = 0, above = 0;
        for (int x = 0; x < run.count; ++x) {
          const float value = widen(run.at(x)[column * run.rows.column_stride]);
          below += sums[x] * value;
          above += sums[kTile + x] * value;
        }
        rows[column] += factor() * below;
        rows[2 * table().max_distance * width() + column] += factor() * above;
      }
    });
  }
};

template <bool OfKeys>
void launch_table_gradients(const AttentionBackwardParams& p, Stream stream) {
  with_16_bits(p.dtype, [&](auto stored) {
    with_width(width_of(p), [&](auto width) {
      using Kernel = AttentionTableGradientsMma<decltype(stored), decltype(width)::value, OfKeys, Scores::kRelative>;
      launch(Kernel{p}, p.query_heads * p.parts, stream, "attention_backward: relative tables");
    });
  });
}

}  // namespace

void attention_table_gradients(const AttentionBackwardParams& p, Stream stream) {
  if (p.slot_relative_key) launch_table_gradients<true>(p, stream);
  if (p.slot_relative_value && p.grad_out) launch_table_gradients<false>(p, stream);
}

}  // namespace seo_kernels::cuda::sm80
