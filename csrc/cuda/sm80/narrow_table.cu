// Relative tables in the type of the operands that they are multiplied with, rows filled up to pieces of 16 bytes.
#include "cuda/sm80/attention.h"
#include "cuda/sm80/widths.h"

namespace seo_kernels::cuda::sm80 {
namespace {

struct NoShared {};

// A thread has an entry.
template <class S>
struct NarrowTable {
  using Shared = NoShared;
  static constexpr int kThreads = 256;
  const float* from;
  S* to;
  int64_t rows, width;

  template <class Block>
  SK_DEVICE void operator()(Block& block) const {
    block.for_threads([&](int thread) {
      const int64_t at = block.index() * kThreads + thread, ld = narrow_ld(width);
      if (at >= rows * ld) return;
      const int64_t row = at / ld, column = at % ld;
      to[at] = column < width ? narrow<S>(from[row * width + column]) : S{0};
    });
  }
};

}  // namespace

void narrow_table(DType dtype, const RelativeTable& table, int64_t heads, int64_t width, void* to, Stream stream) {
  const int64_t rows = (table.per_head ? heads : 1) * table.rows(), entries = rows * narrow_ld(width);
  with_16_bits(dtype, [&](auto stored) {
    using S = decltype(stored);
    const NarrowTable<S> kernel{static_cast<const float*>(table.data), static_cast<S*>(to), rows, width};
    launch(kernel, (entries + 255) / 256, stream, "attention: tables");
  });
}

}  // namespace seo_kernels::cuda::sm80
