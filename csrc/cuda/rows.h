// How the loss kernels go over rows of any dtype and stride: a group of neighbouring threads takes a row, in 16-byte
// chunks where entries of one type lie side by side.
#pragma once

#include <algorithm>
#include <initializer_list>

#include "cuda/element.h"
#include "params/matrix_view.h"

namespace seo_kernels::cuda {

constexpr int kRowThreads = 128;    // of a block
constexpr int kChunksAtOnce = 2;    // whose loads are under way together
constexpr int kChunksOfThread = 4;  // that are worth a thread

// Stands for a stored type where the views alone know it: entries are read and written one by one.
template <class Acc>
struct Mixed {};

template <class S>
struct StorageOf {
  using Acc = AccOf<S>;
  using Element = S;
  static constexpr int kEntries = kChunk<S>;  // read at a time
};
template <class A>
struct StorageOf<Mixed<A>> {
  using Acc = A;
  using Element = A;
  static constexpr int kEntries = 1;
};

template <class S>
SK_DEVICE inline bool fits_chunk(const S* address) {
  return reinterpret_cast<uintptr_t>(address) % 16 == 0;
}

// Neighbouring entries at any address.
template <int N, class S>
SK_DEVICE inline Chunk<S, N> load_entries(const S* from) {
  if constexpr (N == 1) return load_chunk<1>(from);
  if (fits_chunk(from)) return load_chunk<N>(from);
  Chunk<S, N> chunk;
#pragma unroll
  for (int n = 0; n < N; ++n) chunk.element[n] = from[n];
  return chunk;
}
template <int N, class S>
SK_DEVICE inline void store_entries(S* to, const Chunk<S, N>& chunk) {
  if constexpr (N == 1) return store_chunk<1>(to, chunk);
  if (fits_chunk(to)) return store_chunk<N>(to, chunk);
#pragma unroll
  for (int n = 0; n < N; ++n) to[n] = chunk.element[n];
}

// A row of a matrix.
template <class S>
class Row {
 public:
  using Acc = AccOf<S>;

  SK_DEVICE Row(const MatrixView& view, int64_t row)
      : at_(view.data ? static_cast<S*>(view.data) + row * view.row_stride : nullptr) {}

  SK_DEVICE explicit operator bool() const { return at_ != nullptr; }
  // Entries from a column on to the next multiple of 16 bytes.
  SK_DEVICE int64_t head(int64_t column = 0) const {
    return static_cast<int64_t>(-(reinterpret_cast<uintptr_t>(at_ + column) / sizeof(S)) % kChunk<S>);
  }
  template <int N>
  SK_DEVICE Chunk<S, N> load(int64_t column) const {
    return load_entries<N>(at_ + column);
  }
  template <int N>
  SK_DEVICE void store(int64_t column, const Acc (&values)[N]) const {
    Chunk<S, N> chunk;
#pragma unroll
    for (int n = 0; n < N; ++n) chunk.element[n] = narrow<S>(values[n]);
    store_entries<N>(at_ + column, chunk);
  }
  SK_DEVICE Acc entry(int64_t column) const { return widen(at_[column]); }

 private:
  S* at_;
};

template <class A>
class Row<Mixed<A>> {
 public:
  using Acc = A;

  SK_DEVICE Row(const MatrixView& view, int64_t row) : view_(view), row_(row) {}

  SK_DEVICE explicit operator bool() const { return view_.data != nullptr; }
  SK_DEVICE int64_t head(int64_t = 0) const { return 0; }
  template <int N>
  SK_DEVICE Chunk<Acc, 1> load(int64_t column) const {
    static_assert(N == 1);
    return {{entry(column)}};
  }
  template <int N>
  SK_DEVICE void store(int64_t column, const Acc (&values)[N]) const {
    static_assert(N == 1);
    const int64_t n = row_ * view_.row_stride + column * view_.column_stride;
    switch (view_.dtype) {
      case DType::kFloat64:
        static_cast<double*>(view_.data)[n] = values[0];
        return;
      case DType::kBFloat16:
        static_cast<BFloat16*>(view_.data)[n] = narrow<BFloat16>(static_cast<float>(values[0]));
        return;
      case DType::kFloat16:
        static_cast<Float16*>(view_.data)[n] = narrow<Float16>(static_cast<float>(values[0]));
        return;
      default:
        static_cast<float*>(view_.data)[n] = static_cast<float>(values[0]);
    }
  }
  SK_DEVICE Acc entry(int64_t column) const {
    const int64_t n = row_ * view_.row_stride + column * view_.column_stride;
    switch (view_.dtype) {
      case DType::kFloat64:
        return static_cast<Acc>(static_cast<const double*>(view_.data)[n]);
      case DType::kBFloat16:
        return widen(static_cast<const BFloat16*>(view_.data)[n]);
      case DType::kFloat16:
        return widen(static_cast<const Float16*>(view_.data)[n]);
      default:
        return static_cast<const float*>(view_.data)[n];
    }
  }

 private:
  const MatrixView& view_;
  int64_t row_;
};

// A view of what a kernel writes: contiguous rows, or no data.
inline MatrixView contiguous_rows(void* data, DType dtype, int64_t rows, int64_t columns) {
  return {data, dtype, rows, columns, columns, 1};
}

// Which row a thread works on, and with how many others: groups are powers of two.
struct RowGroup {
  int width, lane;
  int64_t row;

  SK_DEVICE RowGroup(int width, int64_t block, int thread)
      : width(width), lane(thread % width), row(block * (kRowThreads / width) + thread / width) {}
};

inline int group_width(int64_t columns, int entries) {
  int width = 1;
  while (width < kRowThreads && static_cast<int64_t>(width) * kChunksOfThread * entries < columns) width *= 2;
  return width;
}

inline int64_t group_blocks(int64_t rows, int width) {
  const int64_t groups = kRowThreads / width;
  return (rows + groups - 1) / groups;
}

// Every column once by the threads of a group together: use(column, what load(column, n) gave, n), where n is the
// number of columns as a constant, N or 1. `head`: columns before the first chunk.
template <int N, class Load, class Use>
SK_DEVICE inline void for_columns(const RowGroup& group, int64_t columns, int64_t head, Load load, Use use) {
  using Many = std::integral_constant<int, N>;
  using One = std::integral_constant<int, 1>;
  if (head > columns) head = columns;
  const int64_t chunks = (columns - head) / N, step = group.width;
  for (int64_t begin = group.lane; begin < chunks; begin += kChunksAtOnce * step) {
    decltype(load(int64_t{}, Many{})) in[kChunksAtOnce];
#pragma unroll
    for (int n = 0; n < kChunksAtOnce; ++n) {
      const int64_t chunk = begin + n * step;
      if (chunk < chunks) in[n] = load(head + chunk * N, Many{});
    }
#pragma unroll
    for (int n = 0; n < kChunksAtOnce; ++n) {
      const int64_t chunk = begin + n * step;
      if (chunk < chunks) use(head + chunk * N, in[n], Many{});
    }
  }
  if constexpr (N > 1) {
    const int64_t single = columns - chunks * N;  // before and after the chunks
    for (int64_t n = group.lane; n < single; n += step) {
      const int64_t column = n < head ? n : n + chunks * N;
      use(column, load(column, One{}), One{});
    }
  }
}

// Combines what the threads of a group have, so that the first of them has all; `shared` as many as threads, of a type
// with load and store. One order, whatever runs first.
template <class Block, class Value, class Shared>
SK_DEVICE inline void combine_groups(Block& block, PerThread<Value>& own, Shared& shared, int width) {
  for (int half = width / 2; half > 0; half /= 2) {
    block.for_threads([&](int thread) {
      const int lane = thread % width;
      if (lane >= half && lane < 2 * half) own[thread].store(shared, thread);
    });
    block.sync();
    block.for_threads([&](int thread) {
      if (thread % width < half) own[thread].add(Value::load(shared, thread + half));
    });
  }
}

// A sum, for combine_groups; the shared memory has an array `totals`.
template <class Acc>
struct GroupTotal {
  Acc value = 0;

  SK_DEVICE void add(GroupTotal other) { value += other.value; }
  template <class Shared>
  SK_DEVICE void store(Shared& shared, int n) const {
    shared.totals[n] = value;
  }
  template <class Shared>
  SK_DEVICE static GroupTotal load(Shared& shared, int n) {
    return {shared.totals[n]};
  }
};

// Calls f with how matrices are stored: one type, neighbours side by side, or as their views say.
template <class F>
inline void with_storage(std::initializer_list<MatrixView> matrices, F f) {
  const MatrixView& first = *matrices.begin();
  const bool alike = std::all_of(matrices.begin(), matrices.end(), [&](const MatrixView& m) {
    return !m.data || (m.dtype == first.dtype && (m.column_stride == 1 || m.columns == 1));
  });
  if (alike) return with_dtype(first.dtype, f);
  const bool wide = std::any_of(matrices.begin(), matrices.end(),
                                [](const MatrixView& m) { return m.data && m.dtype == DType::kFloat64; });
  wide ? f(Mixed<double>{}) : f(Mixed<float>{});
}

}  // namespace seo_kernels::cuda
