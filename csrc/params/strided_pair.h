// Two tensors of one shape, an operand and a result, walked through together in the order of the shape.
#pragma once

#include <cstdint>

#include "semantics/host_device.h"

namespace seo_kernels {

// Strides are in elements. Neighbouring dimensions that both tensors walk through as through one are joined: two
// contiguous tensors have one dimension. The last one is the innermost.
struct StridedPair {
  static constexpr int kMaxDims = 64;  // torch's own limit

  int64_t elements = 1;
  int dims = 1;
  int64_t size[kMaxDims] = {1}, from[kMaxDims] = {1}, to[kMaxDims] = {1};

  // sizes, from_strides, to_strides: functions of the dimension
  template <class Sizes, class From, class To>
  StridedPair(int64_t count, Sizes sizes, From from_strides, To to_strides) {
    int at = -1;
    for (int64_t n = 0; n < count; ++n) {
      elements *= sizes(n);
      if (sizes(n) == 1) continue;
      const bool joins = at >= 0 && from[at] == from_strides(n) * sizes(n) && to[at] == to_strides(n) * sizes(n);
      if (!joins) size[++at] = 1;
      size[at] *= sizes(n);
      from[at] = from_strides(n);
      to[at] = to_strides(n);
    }
    dims = at < 0 ? 1 : at + 1;
  }
};

struct PairOffsets {
  int64_t from, to;
};

// Where an element lies.
SK_HOST_DEVICE PairOffsets offsets_of(const StridedPair& pair, int64_t index) {
  PairOffsets offsets{0, 0};
  for (int n = pair.dims - 1; n >= 0; --n) {
    const int64_t at = index % pair.size[n];
    index /= pair.size[n];
    offsets.from += at * pair.from[n];
    offsets.to += at * pair.to[n];
  }
  return offsets;
}

}  // namespace seo_kernels
