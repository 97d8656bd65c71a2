// Around products of a high rank, which are left to the library of matrix products: dropout, and what is rounded to
// operands.
#include "cuda/low_rank.h"

namespace seo_kernels::cuda {
namespace {

struct NoShared {};

template <class S, int N>
struct Drop {
  using Shared = NoShared;
  static constexpr int kThreads = kLanes * kWarps;
  DropParams p;

  // A thread has a few columns of as many rows as draw together.
  template <class Block>
  SK_DEVICE void operator()(Block& block) const {
    const int64_t column_tiles = ceil_div(p.columns, kLanes * N);
    block.for_threads([&](int thread) {
      const int64_t column = (block.index() % column_tiles * kLanes + thread % kLanes) * N;
      const int64_t group = block.index() / column_tiles * kWarps + thread / kLanes;
      if (column >= p.columns || group * kWordRows >= p.rows) return;
      const uint32_t kept = kept_bits<N>(p.dropout, seed_of(p.dropout), group, column);
#pragma unroll
      for (int r = 0; r < kWordRows; ++r) {
        const int64_t row = group * kWordRows + r;
        if (row >= p.rows) break;
        Chunk<S, N> chunk = load_chunk<N>(p.input.template at<const S>(row, column));
        drop_entries(kept, r, chunk);
        store_chunk<N>(p.out.template at<S>(row, column), chunk);
      }
    });
  }
};

template <class S>
struct ScaleSums {
  using Acc = AccOf<S>;
  using Shared = NoShared;
  static constexpr int kThreads = kLanes * kWarps;
  ScaleSumsParams p;

  template <class Block>
  SK_DEVICE void operator()(Block& block) const {
    block.for_threads([&](int thread) {
      const int64_t n = block.index() * kThreads + thread;
      if (n >= p.count) return;
      const Acc sum = static_cast<const Acc*>(p.sums)[n];
      static_cast<S*>(p.out)[n] = narrow<S>(sum * static_cast<Acc>(p.factor));
    });
  }
};

}  // namespace

void drop(const DropParams& p, Stream stream) {
  with_dtype(p.dtype, [&](auto stored) {
    using S = decltype(stored);
    const auto run = [&](auto n) {
      constexpr int N = decltype(n)::value;
      launch(Drop<S, N>{p}, ceil_div(p.rows, kWarps * kWordRows) * ceil_div(p.columns, kLanes * N), stream,
             "lora_linear: dropout");
    };
    if (fits_chunks<S>(p.rows, p.columns, {p.input, p.out})) return run(std::integral_constant<int, kChunk<S>>{});
    run(std::integral_constant<int, 1>{});
  });
}

void scale_sums(const ScaleSumsParams& p, Stream stream) {
  with_dtype(p.dtype, [&](auto stored) {
    using Kernel = ScaleSums<decltype(stored)>;
    launch(Kernel{p}, ceil_div(p.count, Kernel::kThreads), stream, "lora_linear: scale");
  });
}

}  // namespace seo_kernels::cuda
