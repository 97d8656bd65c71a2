// The gradient of an additive mask on tensor cores: the scores' gradients, summed over whatever the mask broadcasts
// over. A block has a tile of the mask's entries.
#include "cuda/sm80/attention.h"
#include "cuda/sm80/differentiate.h"

namespace seo_kernels::cuda::sm80 {
namespace {

// A tile of the mask's entries: its place in each dimension, 0 where that is 1 and all of the problem's is gone over.
struct MaskTile {
  int at[4];  // batch, head, tile of queries, panel
};

// The pairs of tiles and panels to which a mask's tile is added, one after the other: batches, then tiles, then heads.
// Where it stands is where the pair does.
class MaskCursor {
 public:
  SK_DEVICE MaskCursor(const AttentionBackwardParams& p, const MaskTile& mask, TilePair& pair) : p_(p), mask_(mask) {
    begin_tile(pair, mask_.at[0], mask_.at[1], mask_.at[2]);
  }

  // The next panel of which queries may see keys; the pair is then set. False after the last.
  SK_DEVICE bool next(TilePair& pair) {
    do {
      while (next_panel(pair)) {
        if (pair.set_keys(panel_, partial())) return true;
      }
    } while (next_tile(pair));
    return false;
  }
  SK_DEVICE int panel() const { return panel_; }
  SK_DEVICE bool partial() const { return p_.plan.runs[run_].partial; }

 private:
  SK_DEVICE int end(int dimension, int64_t count) const {
    return p_.mask_sizes[dimension] == 1 ? static_cast<int>(count) : mask_.at[dimension] + 1;
  }

  SK_DEVICE bool next_panel(const TilePair& pair) {
    const int last_run = static_cast<int>(p_.plan.offsets[place(pair.head(), pair.tile()) + 1]);
    for (++panel_; run_ < last_run; ++run_) {
      const PanelRun run = p_.plan.runs[run_];
      if (panel_ < run.begin) panel_ = run.begin;
      if (panel_ < run.end) return panel_ < end(3, p_.plan.panels);
    }
    return false;
  }

  SK_DEVICE bool next_tile(TilePair& pair) {
    int batch = static_cast<int>(pair.batch()) + 1, head = static_cast<int>(pair.head());
    int tile = static_cast<int>(pair.tile());
    if (batch == end(0, p_.batch)) {
      batch = mask_.at[0];
      if (++tile == end(2, p_.plan.tiles)) {
        tile = mask_.at[2];
        if (++head == end(1, p_.query_heads)) return false;
      }
    }
    begin_tile(pair, batch, head, tile);
    return true;
  }

  SK_DEVICE void begin_tile(TilePair& pair, int batch, int head, int tile) {
    pair.set_queries(batch, head, tile);
    run_ = static_cast<int>(p_.plan.offsets[place(head, tile)]);
    panel_ = mask_.at[3] - 1;
  }
  SK_DEVICE int64_t place(int64_t head, int64_t tile) const {
    return (p_.plan.per_head ? head * p_.plan.tiles : 0) + tile;
  }

  const AttentionBackwardParams& p_;
  const MaskTile& mask_;
  int run_, panel_;
};

struct WithColumns {
  SharedArray<float, kMmaThreads / kWarp * kTile> columns;
};

template <class S, int Width, Scores kScores>
struct AttentionMaskGradientMma {
  static constexpr bool kRelative = kScores == Scores::kRelative;
  static constexpr int kThreads = kMmaThreads, kBlocksAtOnce = blocks_at_once(Width, kScores);
  struct Shared : std::conditional_t<kRelative, WithBand<S, Width>, WithColumns> {
    SharedArray<S, kTile * Width> query, grad_out, key, value;
    RowFacts facts;
  };
  using Pair = Tile<1, kMmaColumns>;
  AttentionBackwardParams p;

  template <class Block>
  SK_DEVICE void operator()(Block& block) const {
    Shared& shared = block.shared();
    const MaskTile mask = place(block.index());
    PerThread<Pair> sums;
    block.for_threads([&](int thread) { sums[thread] = Pair{}; });
    TilePair ahead(p), pair(p);
    MaskCursor cursor(p, mask, ahead);
    bool more = cursor.next(ahead);
    if (more) stage(block, ahead);
    commit_copies(block);
#pragma unroll 1
    while (more) {
      pair.set_queries(ahead.batch(), ahead.head(), ahead.tile());
      pair.set_keys(cursor.panel(), cursor.partial());
      wait_for_copies<0>(block);
      block.sync();  // all is there, facts and words before are read
      write_row_facts(block, p, pair, shared.facts);
      write_words(block, pair, shared.facts);
      PerThread<Pair> products, gradients;
      multiply_by_queries<S, Width, kScores>(block, p, pair, shared.key, shared.value, bool{p.grad_out}, products,
                                             gradients);
      block.sync();  // facts are there, what was multiplied is read
      more = cursor.next(ahead);
      if (more) stage(block, ahead);
      commit_copies(block);
      differentiate<kScores, false, false>(block, p, pair, products, gradients);
      block.for_threads([&](int thread) {
#pragma unroll
        for (int n = 0; n < kMmaColumns; ++n) {
#pragma unroll
          for (int e = 0; e < 4; ++e) sums[thread].at[0][n].at[e] += gradients[thread].at[0][n].at[e];
        }
      });
    }
    if (one_column()) add_columns(block, sums);
    one_row() ? store_row(block, place(block.index()), sums) : store(block, place(block.index()), sums);
  }

 private:
  SK_DEVICE bool one_row() const { return p.mask_sizes[2] == 1; }
  SK_DEVICE bool one_column() const { return p.mask_sizes[3] == 1; }
  SK_DEVICE MaskTile place(int64_t block) const {
    int index = static_cast<int>(block);
    compute_anew_from(index);
    const int panels = one_column() ? 1 : static_cast<int>(p.plan.panels);
    const int tiles = one_row() ? 1 : static_cast<int>(p.plan.tiles), heads = static_cast<int>(p.mask_sizes[1]);
    return {{index / panels / tiles / heads, index / panels / tiles % heads, index / panels % tiles, index % panels}};
  }
  // Where a row of the mask's tile begins; null past its last.
  SK_DEVICE float* row_of(const MaskTile& mask, int row) const {
    const int64_t query = mask.at[2] * p.plan.tile_rows + row;
    if (row >= p.plan.tile_rows || query >= p.mask_sizes[2]) return nullptr;
    const int64_t rows_before = (mask.at[0] * p.mask_sizes[1] + mask.at[1]) * p.mask_sizes[2];
    return static_cast<float*>(p.grad_mask) + (rows_before + query) * p.mask_sizes[3];
  }

  template <class Block>
  SK_DEVICE void stage(Block& block, const TilePair& pair) const {
    Shared& shared = block.shared();
    stage_run<kTile, Width>(block, shared.query, queries_of<S>(p.query, pair, p.dim));
    stage_run<kTile, Width>(block, shared.key, keys_of<S>(p.key, pair, p.dim));
    if (!p.grad_out) return;
    stage_run<kTile, Width>(block, shared.grad_out, queries_of<S>(p.grad_out, pair, p.value_dim));
    stage_run<kTile, Width>(block, shared.value, keys_of<S>(p.value, pair, p.value_dim));
  }

  // A mask of one column gets the sums of rows: they take the place of their first entries.
  template <class Block>
  SK_DEVICE void add_columns(Block& block, PerThread<Pair>& sums) const {
    struct Rows {
      float at[2];
    };
    PerThread<Rows> rows;
    block.for_threads([&](int thread) {
      rows[thread] = Rows{};
#pragma unroll
      for (int n = 0; n < kMmaColumns; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) rows[thread].at[e / 2] += sums[thread].at[0][n].at[e];
      }
    });
    block.template combine<4>(
        rows, [](const Rows& a, const Rows& b) { return Rows{{a.at[0] + b.at[0], a.at[1] + b.at[1]}}; });
    block.for_threads([&](int thread) {
#pragma unroll
      for (int h = 0; h < 2; ++h) sums[thread].at[0][0].at[2 * h] = rows[thread].at[h];
    });
  }

  template <class Block>
  SK_DEVICE void store(Block& block, const MaskTile& mask, PerThread<Pair>& sums) const {
    const int64_t key_begin = int64_t{mask.at[3]} * kTile;
    block.for_threads([&](int thread) {
      const Pairs<false> at(thread, warp_row<1>(thread));
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        float* to = row_of(mask, at.query(0, h, 0));
        if (!to) continue;
#pragma unroll
        for (int n = 0; n < kMmaColumns; ++n) {
#pragma unroll
          for (int c = 0; c < 2; ++c) {
            const int64_t key = key_begin + at.key(n, h, c);
            if (key < p.mask_sizes[3]) to[key] = sums[thread].at[0][n].at[2 * h + c];
          }
        }
      }
    });
  }

  // Of a mask of one row: a warp's rows are added up among its threads, then the warps'.
  template <class Block>
  SK_DEVICE void store_row(Block& block, const MaskTile& mask, PerThread<Pair>& sums) const {
    struct Columns {
      float at[kMmaColumns][2];
    };
    PerThread<Columns> columns;
    block.for_threads([&](int thread) {
#pragma unroll
      for (int n = 0; n < kMmaColumns; ++n) {
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          const float (&four)[4] = sums[thread].at[0][n].at;
          columns[thread].at[n][c] = four[c] + four[2 + c];
        }
      }
    });
    block.template combine<8, 4>(columns, [](const Columns& a, const Columns& b) {
      Columns sum;
#pragma unroll
      for (int n = 0; n < kMmaColumns; ++n) {
#pragma unroll
        for (int c = 0; c < 2; ++c) sum.at[n][c] = a.at[n][c] + b.at[n][c];
      }
      return sum;
    });
    auto& memory = memory_for_columns(block.shared());
    block.sync();  // bands are read
    block.for_threads([&](int thread) {
      const Lane lane(thread);
      if (lane.row != 0) return;
#pragma unroll
      for (int n = 0; n < kMmaColumns; ++n) {
#pragma unroll
        for (int c = 0; c < 2; ++c) memory[thread / kWarp * kTile + 8 * n + lane.column + c] = columns[thread].at[n][c];
      }
    });
    block.sync();
    float* to = row_of(mask, 0);
    const int64_t key_begin = int64_t{mask.at[3]} * kTile;
    block.for_threads([&](int thread) {
      if (thread >= kTile || key_begin + thread >= p.mask_sizes[3]) return;
      float sum = 0;
      for (int warp = 0; warp < kMmaThreads / kWarp; ++warp) sum += memory[warp * kTile + thread];
      to[key_begin + thread] = sum;
    });
  }

  SK_DEVICE static auto& memory_for_columns(Shared& shared) {
    if constexpr (kRelative) {
      return shared.band.products;
    } else {
      return shared.columns;
    }
  }
};

template <class F>
void with_mask_kernel(const AttentionProblem& p, F f) {
  with_16_bits(p.dtype, [&](auto stored) {
    with_changed_scores_and_width(p, [&](auto width, auto scores) {
      using Kernel = AttentionMaskGradientMma<decltype(stored), decltype(width)::value, decltype(scores)::value>;
      f(std::type_identity<Kernel>{});
    });
  });
}

}  // namespace

int64_t mask_gradient_shared_bytes(const AttentionProblem& p) {
  int64_t bytes = 0;
  with_mask_kernel(p, [&](auto kernel) { bytes = sizeof(typename decltype(kernel)::type::Shared); });
  return bytes;
}

void attention_mask_gradient(const AttentionBackwardParams& p, Stream stream) {
  const int64_t tiles = p.mask_sizes[2] == 1 ? 1 : p.plan.tiles, panels = p.mask_sizes[3] == 1 ? 1 : p.plan.panels;
  const int64_t blocks = p.mask_sizes[0] * p.mask_sizes[1] * tiles * panels;
  with_mask_kernel(
      p, [&](auto kernel) { launch(typename decltype(kernel)::type{p}, blocks, stream, "attention_backward: mask"); });
}

}  // namespace seo_kernels::cuda::sm80
