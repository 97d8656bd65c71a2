// Around the narrow products of lora_linear on tensor cores: sums over slots, in order, and what is narrowed to
// operands.
#include "cuda/sm80/lora.h"

namespace seo_kernels::cuda::sm80 {
namespace {

constexpr int kEntryThreads = 256;  // of a block, each with an entry

struct NoShared {};

// The sum over slots of entry n of parts, of `count` entries each.
SK_DEVICE inline float sum_of_slots(const float* parts, int64_t slots, int64_t count, int64_t n) {
  float sum = 0;
#pragma unroll 4
  for (int64_t slot = 0; slot < slots; ++slot) sum += parts[slot * count + n];
  return sum;
}

template <class S, int R>
struct LoraSums {
  using Shared = NoShared;
  static constexpr int kThreads = kEntryThreads;
  LoraSumsParams p;

  template <class Block>
  SK_DEVICE void operator()(Block& block) const {
    block.for_threads([&](int thread) {
      const int64_t n = block.index() * kThreads + thread, row = n / R, rank = n % R;
      if (row >= p.rows) return;
      float sum = 0;
      if (rank < p.rank) sum = sum_of_slots(p.parts, p.slots, p.rows * p.part_rank, row * p.part_rank + rank);
      if (p.sums && rank < p.rank) p.sums[row * p.rank + rank] = sum * static_cast<float>(p.factor);
      if (p.operand) static_cast<S*>(p.operand)[n] = narrow<S>(sum * static_cast<float>(p.operand_factor));
    });
  }
};

template <class S, int R>
struct LoraFactorSum {
  using Shared = NoShared;
  static constexpr int kThreads = kEntryThreads;
  LoraFactorSumParams p;

  template <class Block>
  SK_DEVICE void operator()(Block& block) const {
    block.for_threads([&](int thread) {
      const int64_t n = block.index() * kThreads + thread, column = n / R, rank = n % R;
      if (column >= p.columns || rank >= p.rank) return;
      const float sum = sum_of_slots(p.parts, p.slots, p.columns * R, n) * static_cast<float>(p.factor);
      static_cast<S*>(p.gradient)[rank * p.rank_stride + column * p.column_stride] = narrow<S>(sum);
    });
  }
};

template <class S>
struct LoraOperand {
  using Shared = NoShared;
  static constexpr int kThreads = kEntryThreads;
  LoraOperandParams p;

  template <class Block>
  SK_DEVICE void operator()(Block& block) const {
    block.for_threads([&](int thread) {
      const int64_t n = block.index() * kThreads + thread, line = n / p.stride, column = n % p.stride;
      if (line >= p.lines) return;
      const bool inside = line < p.factor.rows && column < p.factor.columns;
      const S* from = static_cast<const S*>(p.factor.data);
      const int64_t at = line * p.factor.row_stride + column * p.factor.column_stride;
      static_cast<S*>(p.operand)[n] = inside ? from[at] : S{0};
    });
  }
};

// Launches a kernel of the padded rank with a thread for each of `entries` times as many.
template <template <class, int> class Kernel, class Params>
void launch_entries(const Params& p, int64_t entries, Stream stream) {
  with_16_bits(p.dtype, [&](auto stored) {
    with_padded_rank(p.rank, [&](auto rank) {
      constexpr int R = decltype(rank)::value;
      launch(Kernel<decltype(stored), R>{p}, ceil_div(entries * R, kEntryThreads), stream, "lora_linear: operands");
    });
  });
}

}  // namespace

void lora_sums(const LoraSumsParams& p, Stream stream) { launch_entries<LoraSums>(p, p.rows, stream); }
void lora_factor_sum(const LoraFactorSumParams& p, Stream stream) {
  launch_entries<LoraFactorSum>(p, p.columns, stream);
}
void lora_operand(const LoraOperandParams& p, Stream stream) {
  with_16_bits(p.factor.dtype, [&](auto stored) {
    launch(LoraOperand<decltype(stored)>{p}, ceil_div(p.lines * p.stride, kEntryThreads), stream,
           "lora_linear: operands");
  });
}

}  // namespace seo_kernels::cuda::sm80
