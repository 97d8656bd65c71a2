// lora_linear's projection on tensor cores: a block has 64 rows of the matrix and a slot of its columns, which come by
// in stages; each warp has 16 of the rows, and their sums in registers.
#include "cuda/sm80/lora_tiles.h"

namespace seo_kernels::cuda::sm80 {
namespace {

constexpr int kDownRows = 64, kDownColumns = 128;  // of a stage

template <class S, int R, bool kDrops>
struct LoraDownMma {
  static constexpr int kThreads = kMmaThreads, kStages = R == 16 ? 4 : 3;
  static constexpr int kInput = kDownRows * kDownColumns, kFactor = R * kDownColumns;  // entries of a stage
  struct Shared {
    SharedArray<S, kStages * kInput> input;
    SharedArray<S, kStages * kFactor> factor;
  };
  using Sums = Tile<1, R / 8>;
  LoraDownParams p;
  bool chunks;

  template <class Block>
  SK_DEVICE void operator()(Block& block) const {
    const int64_t row_tiles = ceil_div(p.rows, kDownRows);
    const int64_t row = block.index() % row_tiles * kDownRows, slot = block.index() / row_tiles;
    const int64_t slot_columns = ceil_div(ceil_div(p.columns, p.slots), kDownColumns) * kDownColumns;
    const int64_t begin = slot * slot_columns;
    const int64_t end = begin + slot_columns < p.columns ? begin + slot_columns : p.columns;
    const uint64_t seed = seed_of(p.dropout);
    PerThread<Sums> sums;
    block.for_threads([&](int thread) { sums[thread] = Sums{}; });
#pragma unroll
    for (int n = 0; n < kStages - 1; ++n) stage(block, n, row, begin + n * kDownColumns, end);
    int at = 0;  // the stage that is multiplied
#pragma unroll 1
    for (int64_t column = begin; column < end; column += kDownColumns) {
      wait_for_copies<kStages - 2>(block);
      block.sync();  // it is there, the one before is read
      stage(block, at == 0 ? kStages - 1 : at - 1, row, column + (kStages - 1) * kDownColumns, end);
      multiply_stage(block, sums, at, row, column, seed);
      at = at + 1 == kStages ? 0 : at + 1;
    }
    wait_for_copies<0>(block);
    block.for_threads([&](int thread) { write(thread, slot, row, sums[thread]); });
  }

 private:
  template <class Block>
  SK_DEVICE void stage(Block& block, int n, int64_t row, int64_t column, int64_t end) const {
    if (column < end) {
      block.for_threads([&](int thread) {
        compute_anew_from(thread);
        const MatrixPart<S> part{static_cast<const S*>(p.matrix.data), p.matrix.stride, p.rows, end, chunks};
        stage_part<kDownRows, kDownColumns>(block.shared().input, n * kInput, thread, part, row, column);
        stage_factor<R, kDownColumns, S>(block.shared().factor, n * kFactor, thread, p.factor, column, end);
      });
    }
    commit_copies(block);
  }

  template <class Block>
  SK_DEVICE void multiply_stage(Block& block, PerThread<Sums>& sums, int at, int64_t row, int64_t column,
                                uint64_t seed) const {
    PerThread<Fragment> a, b;
#pragma unroll
    for (int k = 0; k < kDownColumns / kStep; ++k) {
      read_matrices<false>(
          block, block.shared().input, [&](int thread) -> Fragment& { return a[thread]; },
          [&](int thread) {
            const int lane = thread % kWarp;
            return at * kInput + swizzled<kDownColumns>(warp_row<1>(thread) + lane % 16, kStep * k + lane / 16 * 8);
          });
      if constexpr (kDrops) {
        drop_rows(
            block, a, p.dropout, seed, [&](int thread) { return row + warp_row<1>(thread); },
            [&](int) { return column + kStep * k; });
      }
#pragma unroll
      for (int n = 0; n < R / 8; n += 2) {
        read_matrices<false>(
            block, block.shared().factor, [&](int thread) -> Fragment& { return b[thread]; },
            [&](int thread) {
              const int lane = thread % kWarp;
              return at * kFactor +
                     swizzled<kDownColumns>(8 * n + lane % 8 + lane / 16 * 8, kStep * k + lane / 8 % 2 * 8);
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
  }

  SK_DEVICE void write(int thread, int64_t slot, int64_t row, const Sums& sums) const {
    const Lane lane(thread);
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int64_t at = row + warp_row<1>(thread) + lane.row + 8 * h;
      if (at >= p.rows) continue;
      float* to = p.parts + (slot * p.rows + at) * R + lane.column;
#pragma unroll
      for (int n = 0; n < R / 8; ++n) store_two(to + 8 * n, sums.at[0][n].at[2 * h], sums.at[0][n].at[2 * h + 1]);
    }
  }
};

}  // namespace

int64_t lora_down_shared_bytes(int64_t rank) {
  int64_t bytes = 0;
  with_padded_rank(rank, [&](auto padded) {
    bytes = sizeof(typename LoraDownMma<BFloat16, decltype(padded)::value, true>::Shared);
  });
  return bytes;
}

int64_t lora_down_slots(int64_t rows, int64_t columns) {
  constexpr int64_t kFewestColumns = 4 * kDownColumns;  // below it, a block only waits for its first copies
  const int64_t wanted = kNarrowBlocks / ceil_div(rows, kDownRows);
  return std::max<int64_t>(1, std::min(wanted, columns / kFewestColumns));
}

void lora_down(const LoraDownParams& p, Stream stream) {
  with_16_bits(p.dtype, [&](auto stored) {
    using S = decltype(stored);
    const bool chunks = fits_chunks<S>(p.rows, p.columns, {p.matrix});
    const int64_t blocks = ceil_div(p.rows, kDownRows) * p.slots;
    with_padded_rank(p.rank, [&](auto rank) {
      constexpr int R = decltype(rank)::value;
      if (p.dropout) return launch(LoraDownMma<S, R, true>{p, chunks}, blocks, stream, "lora_linear: down");
      launch(LoraDownMma<S, R, false>{p, chunks}, blocks, stream, "lora_linear: down");
    });
  });
}

}  // namespace seo_kernels::cuda::sm80
