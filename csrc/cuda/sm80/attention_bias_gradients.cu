// Gradients of relative biases, slopes and sinks on tensor cores. A block is a slot, as those of relative tables are.
// Along a diagonal of a tile of scores the distance is one: what a bias and a slope get are diagonals' sums.
#include "cuda/sm80/attention.h"
#include "cuda/sm80/differentiate.h"
#include "cuda/sm80/slots.h"

namespace seo_kernels::cuda::sm80 {
namespace {

// Rows of a warp that lie 8 apart meet on diagonals 8 columns apart: they are added in registers. What is left of a
// tile are 8 rows of each warp: key k of tile row 16 w + 8 h + r is at row 8 w + r, column k - 8 h + 8.
constexpr int kFoldedRows = kTile / 2, kFoldedColumns = kTile + 8;

struct WithFolded {
  SharedArray<float, kFoldedRows * kFoldedColumns> folded;
};

template <class S, int Width, Scores kScores>
struct AttentionBiasGradientsMma {
  static constexpr bool kRelative = kScores == Scores::kRelative;
  static constexpr int kThreads = kMmaThreads, kBlocksAtOnce = blocks_at_once(Width, kScores);
  struct Shared : std::conditional_t<kRelative, WithBand<S, Width>, WithFolded> {
    SharedArray<S, kTile * Width> query, grad_out, key, value;
    RowFacts facts;
  };
  using Pair = Tile<1, kMmaColumns>;
  AttentionBackwardParams p;

  // What a thread has seen of its slot: pairs below and above the bias's reach, and those of all distances, times it.
  struct Totals {
    float below = 0, above = 0, slope = 0;
  };

  template <class Block>
  SK_DEVICE void operator()(Block& block) const {
    PerThread<Totals> totals;
    TilePair pair(p);
    for_slot_tiles(p, block.index(), pair, [&] { run_tile(block, pair, totals); });
    add_up(block, totals);
  }

 private:
  SK_DEVICE int64_t reach() const { return p.relative_bias.max_distance; }
  SK_DEVICE float* slot_bias(int64_t slot) const {
    return static_cast<float*>(p.slot_relative_bias) + slot * p.relative_bias.rows();
  }
  SK_DEVICE static auto& folded(Shared& shared) {
    if constexpr (kRelative) {
      return shared.band.products;  // read once scores are made
    } else {
      return shared.folded;
    }
  }

  template <class Block>
  SK_DEVICE void run_tile(Block& block, TilePair& pair, PerThread<Totals>& totals) const {
    Shared& shared = block.shared();
    block.sync();  // rows and facts of the tile before are read
    stage_run<kTile, Width>(block, shared.query, queries_of<S>(p.query, pair, p.dim));
    if (p.grad_out) stage_run<kTile, Width>(block, shared.grad_out, queries_of<S>(p.grad_out, pair, p.value_dim));
    write_row_facts(block, p, pair, shared.facts);
    PanelCursor cursor(p.plan, pair.head(), pair.tile());
    bool more = cursor.next(pair);
    if (more) stage_panel(block, pair);
    commit_copies(block);
#pragma unroll 1
    while (more) {
      write_words(block, pair, shared.facts);
      wait_for_copies<0>(block);
      block.sync();  // all is there, diagonals before are read
      PerThread<Pair> products, gradients;
      multiply_by_queries<S, Width, kScores>(block, p, pair, shared.key, shared.value, bool{p.grad_out}, products,
                                             gradients);
      block.sync();  // keys and values are read
      const int panel = cursor.panel();
      const bool partial = cursor.partial();
      more = cursor.next(pair);
      if (more) stage_panel(block, pair);
      commit_copies(block);
      pair.set_keys(panel, partial);
      differentiate<kScores, false, false>(block, p, pair, products, gradients);
      const int64_t distance = pair.distance();
      const bool beyond = !p.slot_slopes && beyond_table(p.relative_bias, distance);
      if (!beyond) fold(block, gradients);
      block.sync();  // what is folded is there, words are read
      if (beyond) {
        add_ends(block, gradients, above_table(p.relative_bias, distance), totals);
      } else {
        add_diagonals(block, distance, totals);
      }
      if (more) pair.set_keys(cursor.panel(), cursor.partial());
    }
    wait_for_copies<0>(block);
  }

  template <class Block>
  SK_DEVICE void stage_panel(Block& block, const TilePair& pair) const {
    Shared& shared = block.shared();
    stage_run<kTile, Width>(block, shared.key, keys_of<S>(p.key, pair, p.dim));
    if (p.grad_out) stage_run<kTile, Width>(block, shared.value, keys_of<S>(p.value, pair, p.value_dim));
  }

  template <class Block>
  SK_DEVICE void fold(Block& block, PerThread<Pair>& gradients) const {
    auto& memory = folded(block.shared());
    block.for_threads([&](int thread) {
      const Lane lane(thread);
      const auto& products = gradients[thread].at[0];
      const int at = (thread / kWarp * 8 + lane.row) * kFoldedColumns + lane.column;
#pragma unroll
      for (int n = 0; n <= kMmaColumns; ++n) {
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          float sum = 0;
          if (n > 0) sum += products[n - 1].at[c];
          if (n < kMmaColumns) sum += products[n].at[2 + c];
          memory[at + 8 * n + c] = sum;
        }
      }
    });
  }

  // Every diagonal is a thread's own.
  template <class Block>
  SK_DEVICE void add_diagonals(Block& block, int64_t distance, PerThread<Totals>& totals) const {
    auto& memory = folded(block.shared());
    block.for_threads([&](int thread) {
      const int across = thread - (kTile - 1);  // of key y and query x: y - x
      if (across >= kTile) return;
      const int64_t d = distance + across;
      float* entry = nullptr;
      if (p.slot_relative_bias && d > -reach() && d < reach()) entry = slot_bias(block.index()) + d + reach();
      const float before = entry ? *entry : 0.0f;
      float sum = 0;
#pragma unroll
      for (int r = 0; r < kFoldedRows; ++r) {
        const int column = across + r / 8 * 16 + r % 8 + 8;
        if (column >= 0 && column < kFoldedColumns) sum += memory[r * kFoldedColumns + column];
      }
      totals[thread].slope -= sum * static_cast<float>(d < 0 ? -d : d);
      if (entry) {
        *entry = before + sum;
      } else {
        (d < 0 ? totals[thread].below : totals[thread].above) += sum;
      }
    });
  }

  template <class Block>
  SK_DEVICE void add_ends(Block& block, PerThread<Pair>& gradients, bool above, PerThread<Totals>& totals) const {
    block.for_threads([&](int thread) {
      float sum = 0;
#pragma unroll
      for (int n = 0; n < kMmaColumns; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) sum += gradients[thread].at[0][n].at[e];
      }
      (above ? totals[thread].above : totals[thread].below) += sum;
    });
  }

  // The threads' sums become the slot's.
  template <class Block>
  SK_DEVICE void add_up(Block& block, PerThread<Totals>& totals) const {
    auto& sums = folded(block.shared());
    block.template combine<kWarp>(totals, [](const Totals& a, const Totals& b) {
      return Totals{a.below + b.below, a.above + b.above, a.slope + b.slope};
    });
    block.sync();  // diagonals are read, and added
    block.for_threads([&](int thread) {
      if (thread % kWarp != 0) return;
      const int at = thread / kWarp * 3;
      sums[at] = totals[thread].below;
      sums[at + 1] = totals[thread].above;
      sums[at + 2] = totals[thread].slope;
    });
    block.sync();
    block.for_threads([&](int thread) {
      if (thread != 0) return;
      float total[3] = {};
      for (int n = 0; n < 3 * (kMmaThreads / kWarp); ++n) total[n % 3] += sums[n];
      if (p.slot_relative_bias) {
        float* to = slot_bias(block.index());
        to[0] += total[0];
        to[2 * reach()] += total[1];
      }
      if (p.slot_slopes) static_cast<float*>(p.slot_slopes)[block.index()] = total[2];
    });
  }
};

// No score takes part in them: what is known of rows is enough.
struct AttentionSinkGradients {
  static constexpr int kThreads = kTile;
  struct Shared {
    SharedArray<float, kTile / kWarp> sums;
  };
  AttentionBackwardParams p;

  template <class Block>
  SK_DEVICE void operator()(Block& block) const {
    const float sink = static_cast<const float*>(p.sinks)[block.index() / p.parts] * static_cast<float>(kLog2E);
    PerThread<float> totals;
    TilePair pair(p);
    for_slot_tiles(p, block.index(), pair, [&] {
      block.for_threads([&](int thread) {
        const float weight = exp2_of(sink - shift_of<float>(p, pair, thread));
        if (weight != 0.0f) totals[thread] -= weight * delta_of<float>(p, pair, thread);
      });
    });
    block.template combine<kWarp>(totals, [](float a, float b) { return a + b; });
    auto& sums = block.shared().sums;
    block.for_threads([&](int thread) {
      if (thread % kWarp == 0) sums[thread / kWarp] = totals[thread];
    });
    block.sync();
    block.for_threads([&](int thread) {
      if (thread == 0) static_cast<float*>(p.slot_sinks)[block.index()] = sums[0] + sums[1];
    });
  }
};

template <class F>
void with_bias_kernel(const AttentionProblem& p, F f) {
  with_16_bits(p.dtype, [&](auto stored) {
    with_changed_scores_and_width(p, [&](auto width, auto scores) {
      using Kernel = AttentionBiasGradientsMma<decltype(stored), decltype(width)::value, decltype(scores)::value>;
      f(std::type_identity<Kernel>{});
    });
  });
}

}  // namespace

int64_t bias_gradients_shared_bytes(const AttentionProblem& p) {
  int64_t bytes = 0;
  with_bias_kernel(p, [&](auto kernel) { bytes = sizeof(typename decltype(kernel)::type::Shared); });
  return bytes;
}

void attention_bias_gradients(const AttentionBackwardParams& p, Stream stream) {
  with_bias_kernel(p, [&](auto kernel) {
    launch(typename decltype(kernel)::type{p}, p.query_heads * p.parts, stream, "attention_backward: biases");
  });
}

void attention_sink_gradients(const AttentionBackwardParams& p, Stream stream) {
  launch(AttentionSinkGradients{p}, p.query_heads * p.parts, stream, "attention_backward: sinks");
}

}  // namespace seo_kernels::cuda::sm80
