// gradient = factor * left^T dropout(right): one read of `right`. A block has some columns and a slot of the rows, a
// thread a few columns whose sums stay in registers. The slots' parts are added in order.
#include "cuda/low_rank.h"

namespace seo_kernels::cuda {
namespace {

template <class S, int N, int R>
struct LoraFactor {
  using Acc = AccOf<S>;
  static constexpr int kThreads = kLanes * kWarps;
  static constexpr int kStageRows = 256;
  struct Shared {
    LeftTile<Acc, kStageRows, R> left;
    SharedArray<Acc, kThreads * N> sums;  // (warps, columns)
  };
  struct Sums {
    Acc of[R][N];
  };
  LoraFactorParams p;
  int64_t slots;

  template <class Block>
  SK_DEVICE void operator()(Block& block) const {
    const int64_t column_tiles = ceil_div(p.columns, kLanes * N);
    const int64_t slot = block.index() / column_tiles, tile = block.index() % column_tiles;
    const int64_t slot_rows = ceil_div(ceil_div(p.rows, slots), kWordRows) * kWordRows;
    const int64_t begin = slot * slot_rows, end = begin + slot_rows < p.rows ? begin + slot_rows : p.rows;
    PerThread<Sums> sums;
    for (int64_t first = begin; first < end; first += kStageRows) {
      const int64_t last = first + kStageRows < end ? first + kStageRows : end;
      block.for_threads([&](int thread) { block.shared().left.load(p.left, p.rank, first, last, Acc(1), thread); });
      block.sync();
      block.for_threads([&](int thread) { add(block, tile, first, last, thread, sums[thread]); });
      block.sync();
    }
#pragma unroll
    for (int j = 0; j < R; ++j) {
      if (j >= p.rank) break;
      block.for_threads([&](int thread) {
#pragma unroll
        for (int n = 0; n < N; ++n) block.shared().sums[thread * N + n] = sums[thread].of[j][n];
      });
      block.sync();
      block.for_threads([&](int thread) { write(block, (slot * p.rank + j) * p.columns, tile, thread); });
      block.sync();
    }
  }

  // The products of rows [first, last), which are in shared memory from their first on.
  template <class Block>
  SK_DEVICE void add(Block& block, int64_t tile, int64_t first, int64_t last, int thread, Sums& sums) const {
    const int64_t column = (tile * kLanes + thread % kLanes) * N;
    if (column >= p.columns) return;
    const uint64_t seed = seed_of(p.dropout);
    for (int64_t row = first + thread / kLanes * kWordRows; row < last; row += kWarps * kWordRows) {
      Chunk<S, N> right[kWordRows];
#pragma unroll
      for (int r = 0; r < kWordRows; ++r) {
        right[r] = row + r < last ? load_chunk<N>(p.right.template at<const S>(row + r, column)) : zeros<S, N>();
      }
      if (p.dropout) {
        const uint32_t kept = kept_bits<N>(p.dropout, seed, row / kWordRows, column);
#pragma unroll
        for (int r = 0; r < kWordRows; ++r) drop_entries(kept, r, right[r]);
      }
#pragma unroll
      for (int r = 0; r < kWordRows; ++r) {
        if (row + r >= last) break;
        const int tile_row = static_cast<int>(row - first) + r;
        Acc values[N];
#pragma unroll
        for (int n = 0; n < N; ++n) values[n] = widen(right[r].element[n]);
#pragma unroll
        for (int j = 0; j < R; ++j) {
          const Acc left = block.shared().left.values[tile_row * R + j];
#pragma unroll
          for (int n = 0; n < N; ++n) sums.of[j][n] += left * values[n];
        }
      }
    }
  }

  // Over the warps: a row of the slot's part.
  template <class Block>
  SK_DEVICE void write(Block& block, int64_t part_row, int64_t tile, int thread) const {
    const int64_t first = tile * kLanes * N;
    for (int n = thread; n < kLanes * N; n += kThreads) {
      if (first + n >= p.columns) continue;
      Acc sum = 0;
      for (int warp = 0; warp < kWarps; ++warp) sum += static_cast<Acc>(block.shared().sums[warp * kLanes * N + n]);
      static_cast<Acc*>(p.parts)[part_row + first + n] = sum;
    }
  }
};

// gradient = factor * sum over the slots, in order
template <class S>
struct SumSlots {
  using Acc = AccOf<S>;
  struct Shared {};
  static constexpr int kThreads = kLanes * kWarps;
  LoraFactorParams p;
  int64_t slots;

  template <class Block>
  SK_DEVICE void operator()(Block& block) const {
    block.for_threads([&](int thread) {
      const int64_t count = p.rank * p.columns, n = block.index() * kThreads + thread;
      if (n >= count) return;
      Acc sum = 0;
      for (int64_t slot = 0; slot < slots; ++slot) sum += static_cast<const Acc*>(p.parts)[slot * count + n];
      const int64_t at = n / p.columns * p.gradient_rank_stride + n % p.columns * p.gradient_column_stride;
      static_cast<S*>(p.gradient)[at] = narrow<S>(sum * static_cast<Acc>(p.factor));
    });
  }
};

}  // namespace

int64_t lora_factor_slots(DType dtype, int64_t rows, int64_t columns) {
  constexpr int64_t kMostSlots = 64, kFewestRows = 64;
  const int64_t column_tiles = ceil_div(columns, kLanes * 16 / element_size(dtype));
  const int64_t wanted = std::min(kMostSlots, ceil_div(kBlocksWanted, std::max<int64_t>(column_tiles, 1)));
  return std::max<int64_t>(1, std::min(wanted, ceil_div(rows, kFewestRows)));
}

void lora_factor(const LoraFactorParams& p, Stream stream) {
  const int64_t slots = lora_factor_slots(p.dtype, p.rows, p.columns);
  with_rank(p, {p.right}, [&](auto stored, auto n, auto rank) {
    using S = decltype(stored);
    using Kernel = LoraFactor<S, decltype(n)::value, decltype(rank)::value>;
    launch(Kernel{p, slots}, slots * ceil_div(p.columns, kLanes * decltype(n)::value), stream, "lora_linear: factor");
    launch(SumSlots<S>{p, slots}, ceil_div(p.rank * p.columns, SumSlots<S>::kThreads), stream, "lora_linear: factor");
  });
}

}  // namespace seo_kernels::cuda
