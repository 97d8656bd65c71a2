// Rows that will be needed soon, brought closer a few lines at a time between products: a burst would wait for memory.
#pragma once

#include <algorithm>
#include <cstdint>

#include "params/tensor_view.h"

namespace seo_kernels::cpu {
namespace {

class PrefetchQueue {
 public:
  void clear() { count_ = next_ = 0; }

  // Rows [begin, end) of a head; elements of a row lie side by side, or nothing is asked for.
  void add(const TensorView& view, int64_t batch, int64_t head, int64_t begin, int64_t end, int64_t width) {
    if (!view || view.stride[3] != 1 || begin >= end || count_ == kMaxViews) return;
    const int64_t size = view.dtype == DType::kFloat64 ? 8 : view.dtype == DType::kFloat32 ? 4 : 2;
    const int64_t first = batch * view.stride[0] + head * view.stride[1] + begin * view.stride[2];
    rows_[count_++] =
        Rows{static_cast<const char*>(view.data) + first * size, view.stride[2] * size, width * size, end - begin};
  }

  // Asks for the next few rows.
  void step() {
    for (int64_t budget = kBytes; budget > 0 && next_ < count_;) {
      Rows& rows = rows_[next_];
      for (int64_t byte = 0; byte < rows.bytes; byte += kLine) __builtin_prefetch(rows.at + byte, 0, 2);
      budget -= rows.bytes;
      rows.at += rows.stride;
      if (--rows.count == 0) ++next_;
    }
  }

 private:
  struct Rows {
    const char* at;
    int64_t stride, bytes, count;
  };
  static constexpr int kMaxViews = 8;
  static constexpr int64_t kLine = 64;
  static constexpr int64_t kBytes = 2048;  // a step, about as much as memory delivers meanwhile

  Rows rows_[kMaxViews];
  int count_ = 0, next_ = 0;
};

}  // namespace
}  // namespace seo_kernels::cpu
