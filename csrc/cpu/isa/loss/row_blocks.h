// Rows of any dtype and stride, a block at a time, in the accumulation type.
#pragma once

#include <algorithm>

#include "cpu/isa/scratch.h"
#include "cpu/isa/stored.h"
#include "params/loss_params.h"

namespace seo_kernels::cpu {
namespace {

constexpr int64_t kLossBlock = 1024;  // entries: a few blocks lie in the first-level cache

template <class Acc>
constexpr DType kAccType = sizeof(Acc) == 8 ? DType::kFloat64 : DType::kFloat32;

// f(a number of the accumulation type)
template <class F>
inline void with_acc(DType dtype, F f) {
  if (dtype == DType::kFloat64) return f(double{});
  f(float{});
}

// The first `count` lanes from memory, `rest` in the others.
template <class Acc>
inline Vec<Acc> load_first(const Acc* from, int64_t count, Acc rest) {
  Vec<Acc> v = splat(rest);
  std::memcpy(&v, from, static_cast<size_t>(count) * sizeof(Acc));
  return v;
}

template <class Acc>
inline void store_first(Acc* to, Vec<Acc> v, int64_t count) {
  std::memcpy(to, &v, static_cast<size_t>(count) * sizeof(Acc));
}

// Reads blocks of at most kLossBlock (or `largest`) entries of a row.
template <class Acc>
class BlockReader {
 public:
  explicit BlockReader(const MatrixView& view, int64_t largest = kLossBlock)
      : view_(view), in_place_(view.dtype == kAccType<Acc> && view.column_stride == 1) {
    if (!in_place_ && view.data) copy_ = Scratch<Acc>(largest);
  }

  const Acc* at(int64_t row, int64_t begin, int64_t count) const {
    const int64_t offset = row * view_.row_stride + begin * view_.column_stride;
    if (in_place_) return static_cast<const Acc*>(view_.data) + offset;
    if (view_.column_stride == 1) {
      with_stored<Acc>(view_.dtype, [&](auto stored) {
        const auto* from = static_cast<const decltype(stored)*>(view_.data) + offset;
        int64_t n = 0;
        for (; n + W <= count; n += W) store(copy_.get() + n, load_wide<Acc>(from + n));
        if (n < count) store_first(copy_.get() + n, load_part<Acc>(from + n, count - n), count - n);
      });
    } else {
      load_row(view_.data, view_.dtype, offset, view_.column_stride, count, copy_.get());
    }
    return copy_.get();
  }

  Acc entry(int64_t row, int64_t column) const {
    Acc value;
    load_row(view_.data, view_.dtype, row * view_.row_stride + column * view_.column_stride, 1, 1, &value);
    return value;
  }

 private:
  static constexpr int64_t W = kLanes<Acc>;

  MatrixView view_;
  bool in_place_;
  Scratch<Acc> copy_;
};

// Writes blocks of a contiguous (rows, columns) matrix: fill what `begin` gives, then `end`.
template <class Acc>
class BlockWriter {
 public:
  BlockWriter(void* data, DType dtype, int64_t columns, int64_t largest = kLossBlock)
      : data_(data), dtype_(dtype), columns_(columns) {
    if (data_ && dtype_ != kAccType<Acc>) copy_ = Scratch<Acc>(largest);
  }

  explicit operator bool() const { return data_ != nullptr; }

  Acc* begin(int64_t row, int64_t column) const {
    return dtype_ == kAccType<Acc> ? static_cast<Acc*>(data_) + row * columns_ + column : copy_.get();
  }

  void end(int64_t row, int64_t column, int64_t count) const {
    if (dtype_ == kAccType<Acc>) return;
    with_stored<Acc>(dtype_, [&](auto stored) {
      using S = decltype(stored);
      S* to = static_cast<S*>(data_) + row * columns_ + column;
      int64_t n = 0;
      for (; n + W <= count; n += W) store_narrow<S, Acc>(to + n, load(copy_.get() + n));
      if (n < count) store_part<S, Acc>(to + n, load_part<Acc>(copy_.get() + n, count - n), count - n);
    });
  }

 private:
  static constexpr int64_t W = kLanes<Acc>;

  void* data_;
  DType dtype_;
  int64_t columns_;
  Scratch<Acc> copy_;
};

// to[n] = f(n-th vectors of the sources); sources may be null where f ignores them.
template <class Acc, class F, class... From>
inline __attribute__((always_inline)) void map_vectors(int64_t count, Acc* to, F f, const From*... from) {
  constexpr int64_t W = kLanes<Acc>;
  int64_t n = 0;
  for (; n + W <= count; n += W) store(to + n, f(load(from + n)...));
  if (n < count) store_first(to + n, f(load_first(from + n, count - n, Acc(0))...), count - n);
}

// The sum of f over vectors of the sources; f of zeros must be 0 or finite times 0: `rest` fills the first source.
template <class Acc, class F, class... From>
inline __attribute__((always_inline)) Acc sum_vectors(int64_t count, F f, const Acc* first, const From*... from) {
  constexpr int64_t W = kLanes<Acc>;
  Vec<Acc> sums[4] = {};
  int64_t n = 0;
  for (; n + 4 * W <= count; n += 4 * W) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) sums[i] += f(load(first + n + i * W), load(from + n + i * W)...);
  }
  for (; n + W <= count; n += W) sums[0] += f(load(first + n), load(from + n)...);
  Acc sum = reduce_add<Acc>((sums[0] + sums[1]) + (sums[2] + sums[3]));
  if (n < count) {
    Acc last[W];
    store(last, f(load_first(first + n, count - n, Acc(0)), load_first(from + n, count - n, Acc(0))...));
    for (int64_t i = 0; i < count - n; ++i) sum += last[i];
  }
  return sum;
}

}  // namespace
}  // namespace seo_kernels::cpu
