// Gradients of lora_linear's factors on tensor cores: matrix^T left, and matrix factor^T out of the same read. A block
// has some columns and a slot of the rows, which come by 16 at a time; each warp has a quarter of the columns, and what
// they sum up to in registers.
#include "cuda/sm80/lora_tiles.h"

namespace seo_kernels::cuda::sm80 {
namespace {

constexpr int kMmaWarps = kMmaThreads / kWarp;

constexpr int gradient_columns(int rank) { return rank == 16 ? 512 : 256; }  // of a block
constexpr int gradient_stages(int rank) { return rank == 32 ? 4 : 3; }

// What the warps add to sums over a row's columns; two stages' by turns.
template <class S, int R>
struct SumShared {
  static constexpr int kLd = R + 4;  // rows fall into different banks
  SharedArray<S, R * gradient_columns(R)> factor;
  SharedArray<float, 2 * kMmaWarps * kStep * kLd> sums;
};
struct NoSums {};

template <class S, int R, bool kSums, bool kDrops>
struct LoraGradientsMma {
  static_assert(!kSums || !kDrops);
  static constexpr int kThreads = kMmaThreads, kStages = gradient_stages(R);
  static constexpr int kColumns = gradient_columns(R), kWarpColumns = kColumns / kMmaWarps;
  static constexpr int kM = kWarpColumns / 16, kN = R / 8;
  static constexpr int kLeftLd = R + 8;                                      // rows fall into different banks
  static constexpr int kMatrix = kStep * kColumns, kLeft = kStep * kLeftLd;  // entries of a stage
  struct Shared {
    SharedArray<S, kStages * kMatrix> matrix;
    SharedArray<S, kStages * kLeft> left;
    std::conditional_t<kSums, SumShared<S, R>, NoSums> sums;
  };
  using Gradients = Tile<kM, kN>;
  LoraGradientsParams p;
  bool chunks;

  template <class Block>
  SK_DEVICE void operator()(Block& block) const {
    const int64_t column_tiles = ceil_div(p.columns, kColumns);
    const int64_t tile = block.index() % column_tiles, slot = block.index() / column_tiles;
    const int64_t column = tile * kColumns, slot_rows = ceil_div(ceil_div(p.rows, p.slots), kStep) * kStep;
    const int64_t begin = slot * slot_rows, end = begin + slot_rows < p.rows ? begin + slot_rows : p.rows;
    const uint64_t seed = seed_of(p.dropout);
    PerThread<Gradients> gradients;
    block.for_threads([&](int thread) {
      gradients[thread] = Gradients{};
      if constexpr (kSums) {
        stage_factor<R, kColumns, S>(block.shared().sums.factor, 0, thread, p.factor, column, p.columns);
      }
    });
#pragma unroll
    for (int n = 0; n < kStages - 1; ++n) stage(block, n, begin + n * kStep, end, column);
    int at = 0, turn = 0;  // the stage that is multiplied, and where its sums go
#pragma unroll 1
    for (int64_t row = begin; row < end; row += kStep) {
      wait_for_copies<kStages - 2>(block);
      block.sync();  // it is there, the one before is read, its sums are there
      if constexpr (kSums) {
        if (row > begin) write_sums(block, 1 - turn, tile, row - kStep, end);
      }
      stage(block, at == 0 ? kStages - 1 : at - 1, row + (kStages - 1) * kStep, end, column);
      add_gradients(block, gradients, at, row, column, seed);
      if constexpr (kSums) add_sums(block, at, turn);
      at = at + 1 == kStages ? 0 : at + 1;
      turn = 1 - turn;
    }
    wait_for_copies<0>(block);
    if constexpr (kSums) {
      block.sync();
      if (begin < end) write_sums(block, 1 - turn, tile, (end - 1) / kStep * kStep, end);
    }
    block.for_threads([&](int thread) { write(thread, slot, column, gradients[thread]); });
  }

 private:
  template <class Block>
  SK_DEVICE void stage(Block& block, int n, int64_t row, int64_t end, int64_t column) const {
    if (row < end) {
      block.for_threads([&](int thread) {
        compute_anew_from(thread);
        const MatrixPart<S> part{static_cast<const S*>(p.matrix.data), p.matrix.stride, end, p.columns, chunks};
        stage_part<kStep, kColumns>(block.shared().matrix, n * kMatrix, thread, part, row, column);
        stage_left(block.shared().left, n * kLeft, thread, row, end);
      });
    }
    commit_copies(block);
  }

  template <class Memory>
  SK_DEVICE void stage_left(Memory& memory, int at, int thread, int64_t row, int64_t end) const {
    constexpr int piece = 8, per_row = R / piece;
    const S* left = static_cast<const S*>(p.left);
    for (int n = thread; n < kStep * per_row; n += kThreads) {
      const int r = n / per_row, c = n % per_row * piece;
      const bool there = row + r < end;
      begin_copy(memory, at + r * kLeftLd + c, there ? left + (row + r) * R + c : left, there);
    }
  }

  // gradients (columns, rank) += matrix^T left, over a stage
  template <class Block>
  SK_DEVICE void add_gradients(Block& block, PerThread<Gradients>& gradients, int at, int64_t row, int64_t column,
                               uint64_t seed) const {
    PerThread<Fragment> a, b[kN / 2];
#pragma unroll
    for (int n = 0; n < kN / 2; ++n) {
      read_matrices<true>(
          block, block.shared().left, [&](int thread) -> Fragment& { return b[n][thread]; },
          [&](int thread) {
            const int lane = thread % kWarp;
            return at * kLeft + lane % 16 * kLeftLd + 16 * n + lane / 16 * 8;
          });
    }
#pragma unroll
    for (int m = 0; m < kM; ++m) {
      read_matrices<true>(
          block, block.shared().matrix, [&](int thread) -> Fragment& { return a[thread]; },
          [&](int thread) {
            const int lane = thread % kWarp;
            return at * kMatrix +
                   swizzled<kColumns>(lane % 8 + lane / 16 * 8, warp_column(thread) + 16 * m + lane / 8 % 2 * 8);
          });
      if constexpr (kDrops) {
        drop_turned(
            block, a, p.dropout, seed, [&](int) { return row; },
            [&](int thread) { return column + warp_column(thread) + 16 * m; });
      }
#pragma unroll
      for (int n = 0; n < kN; ++n) {
        multiply<S>(
            block, [&](int thread) -> Product& { return gradients[thread].at[m][n]; },
            [&](int thread) -> const Fragment& { return a[thread]; },
            [&](int thread) { return b[n / 2][thread].at + n % 2 * 2; });
      }
    }
  }

  // Each warp's matrix factor^T, over a stage and its own columns.
  template <class Block>
  SK_DEVICE void add_sums(Block& block, int at, int turn) const {
    auto& shared = block.shared();
    PerThread<Tile<1, kN>> sums;
    PerThread<Fragment> a, b;
    block.for_threads([&](int thread) { sums[thread] = {}; });
#pragma unroll
    for (int k = 0; k < kM; ++k) {
      read_matrices<false>(
          block, shared.matrix, [&](int thread) -> Fragment& { return a[thread]; },
          [&](int thread) {
            const int lane = thread % kWarp;
            return at * kMatrix + swizzled<kColumns>(lane % 16, warp_column(thread) + kStep * k + lane / 16 * 8);
          });
#pragma unroll
      for (int n = 0; n < kN; n += 2) {
        read_matrices<false>(
            block, shared.sums.factor, [&](int thread) -> Fragment& { return b[thread]; },
            [&](int thread) {
              const int lane = thread % kWarp;
              return swizzled<kColumns>(8 * n + lane % 8 + lane / 16 * 8,
                                        warp_column(thread) + kStep * k + lane / 8 % 2 * 8);
            });
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          multiply<S>(
              block, [&](int thread) -> Product& { return sums[thread].at[0][n + half]; },
              [&](int thread) -> const Fragment& { return a[thread]; },
              [&](int thread) { return b[thread].at + 2 * half; });
        }
      }
    }
    block.for_threads([&](int thread) {
      const Lane lane(thread);
#pragma unroll
      for (int n = 0; n < kN; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int place = sum_at(turn, thread / kWarp, lane.row + e / 2 * 8, 8 * n + lane.column + e % 2);
          shared.sums.sums[place] = sums[thread].at[0][n].at[e];
        }
      }
    });
  }

  // The warps' sums of the stage from `row` on, added in order.
  template <class Block>
  SK_DEVICE void write_sums(Block& block, int turn, int64_t tile, int64_t row, int64_t end) const {
    block.for_threads([&](int thread) {
      constexpr int piece = 4, per_row = R / piece;
      for (int n = thread; n < kStep * per_row; n += kThreads) {
        const int r = n / per_row, c = n % per_row * piece;
        if (row + r >= end) continue;
        Chunk<float, piece> total{};
#pragma unroll
        for (int warp = 0; warp < kMmaWarps; ++warp) {
          const auto part = block.shared().sums.sums.template pack<piece>(sum_at(turn, warp, r, c));
#pragma unroll
          for (int e = 0; e < piece; ++e) total.element[e] += part.at[e];
        }
        store_chunk<piece>(p.sum_parts + (tile * p.rows + row + r) * R + c, total);
      }
    });
  }

  SK_DEVICE void write(int thread, int64_t slot, int64_t column, const Gradients& gradients) const {
    const Lane lane(thread);
#pragma unroll
    for (int m = 0; m < kM; ++m) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int64_t at = column + warp_column(thread) + 16 * m + lane.row + 8 * h;
        if (at >= p.columns) continue;
        float* to = p.parts + (slot * p.columns + at) * R + lane.column;
#pragma unroll
        for (int n = 0; n < kN; ++n) {
          const float (&x)[4] = gradients.at[m][n].at;
          store_two(to + 8 * n, x[2 * h], x[2 * h + 1]);
        }
      }
    }
  }

  SK_DEVICE static int warp_column(int thread) { return thread / kWarp * kWarpColumns; }
  SK_DEVICE static constexpr int sum_at(int turn, int warp, int row, int rank) {
    return ((turn * kMmaWarps + warp) * kStep + row) * (R + 4) + rank;
  }
};

}  // namespace

int64_t lora_gradients_shared_bytes(int64_t rank) {
  int64_t bytes = 0;
  with_padded_rank(rank, [&](auto padded) {
    bytes = sizeof(typename LoraGradientsMma<BFloat16, decltype(padded)::value, true, false>::Shared);
  });
  return bytes;
}

int64_t lora_sum_slots(int64_t columns, int64_t rank) { return ceil_div(columns, gradient_columns(padded_rank(rank))); }

int64_t lora_gradient_slots(int64_t rows, int64_t columns, int64_t rank) {
  constexpr int64_t kFewestRows = 8 * kStep;  // below it, a block only waits for its first copies
  const int64_t wanted = kNarrowBlocks / lora_sum_slots(columns, rank);
  return std::max<int64_t>(1, std::min(wanted, rows / kFewestRows));
}

void lora_gradients(const LoraGradientsParams& p, Stream stream) {
  with_16_bits(p.dtype, [&](auto stored) {
    using S = decltype(stored);
    const bool chunks = fits_chunks<S>(p.rows, p.columns, {p.matrix});
    const int64_t blocks = lora_sum_slots(p.columns, p.rank) * p.slots;
    with_padded_rank(p.rank, [&](auto rank) {
      constexpr int R = decltype(rank)::value;
      constexpr const char* op = "lora_linear: gradients";
      if (p.sum_parts) return launch(LoraGradientsMma<S, R, true, false>{p, chunks}, blocks, stream, op);
      if (p.dropout) return launch(LoraGradientsMma<S, R, false, true>{p, chunks}, blocks, stream, op);
      launch(LoraGradientsMma<S, R, false, false>{p, chunks}, blocks, stream, op);
    });
  });
}

}  // namespace seo_kernels::cuda::sm80
