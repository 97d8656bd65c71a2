// linear_cross_entropy's own passes over the hidden states and their gradient.
#include "cuda/linear_cross_entropy.h"

#include "cuda/rows.h"

namespace seo_kernels::cuda {
namespace {

template <class S>
struct CountedRows {
  using Acc = typename StorageOf<S>::Acc;
  struct Shared {};
  static constexpr int kThreads = kRowThreads, kEntries = StorageOf<S>::kEntries;
  CountedRowsParams p;
  MatrixView to;
  int width;

  template <class Block>
  SK_DEVICE void operator()(Block& block) const {
    block.for_threads([&](int thread) {
      const RowGroup group(width, block.index(), thread);
      if (group.row >= p.from.rows) return;
      const bool counted = p.target[group.row] != p.ignore_index;
      const Row<S> from(p.from, group.row), out(to, group.row);
      for_columns<kEntries>(
          group, p.from.columns, from.head(),
          [&](int64_t column, auto n) { return from.template load<decltype(n)::value>(column); },
          [&](int64_t column, const auto& in, auto count) {
            constexpr int N = decltype(count)::value;
            Acc values[N];
#pragma unroll
            for (int n = 0; n < N; ++n) values[n] = counted ? static_cast<Acc>(widen(in.element[n])) : Acc(0);
            out.template store<N>(column, values);
          });
    });
  }
};

template <class S>
struct AddRows {
  using Acc = AccOf<S>;
  struct Shared {};
  static constexpr int kThreads = kRowThreads, kEntries = kChunk<S>;
  AddRowsParams p;
  MatrixView part, sum, to;
  int width;

  template <class Block>
  SK_DEVICE void operator()(Block& block) const {
    block.for_threads([&](int thread) {
      const RowGroup group(width, block.index(), thread);
      if (group.row >= p.rows) return;
      const Row<Acc> more(part, group.row), total(sum, group.row);
      const Row<S> out(to, group.row);
      for_columns<kEntries>(
          group, p.columns, total.head(),
          [&](int64_t column, auto n) { return more.template load<decltype(n)::value>(column); },
          [&](int64_t column, const auto& in, auto count) {
            constexpr int N = decltype(count)::value;
            const Chunk<Acc, N> before = total.template load<N>(column);
            Acc values[N];
#pragma unroll
            for (int n = 0; n < N; ++n) values[n] = before.element[n] + in.element[n];
            out ? out.template store<N>(column, values) : total.template store<N>(column, values);
          });
    });
  }
};

}  // namespace

void counted_rows(const CountedRowsParams& p, Stream stream) {
  const MatrixView to = contiguous_rows(p.to, p.from.dtype, p.from.rows, p.from.columns);
  with_storage({p.from}, [&](auto stored) {
    using Kernel = CountedRows<decltype(stored)>;
    const int width = group_width(p.from.columns, Kernel::kEntries);
    launch(Kernel{p, to, width}, group_blocks(p.from.rows, width), stream, "linear_cross_entropy_backward");
  });
}

void add_rows(const AddRowsParams& p, Stream stream) {
  with_dtype(p.dtype, [&](auto stored) {
    using Kernel = AddRows<decltype(stored)>;
    const DType acc = p.dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;
    const MatrixView part = contiguous_rows(const_cast<void*>(p.part), acc, p.rows, p.columns);
    const MatrixView sum = contiguous_rows(p.sum, acc, p.rows, p.columns);
    const MatrixView to = contiguous_rows(p.to, p.dtype, p.rows, p.columns);
    const int width = group_width(p.columns, Kernel::kEntries);
    launch(Kernel{p, part, sum, to, width}, group_blocks(p.rows, width), stream, "linear_cross_entropy_backward");
  });
}

}  // namespace seo_kernels::cuda
