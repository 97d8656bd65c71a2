// Square blocks of vectors transposed in registers.
#pragma once

#include "cpu/isa/simd.h"

namespace seo_kernels::cpu {
namespace {

template <class T, int S, int... I>
inline __attribute__((always_inline)) void exchange(Vec<T>& a, Vec<T>& b, std::integer_sequence<int, I...>) {
  using Index = Vec<std::conditional_t<sizeof(T) == 4, int32_t, int64_t>>;
  constexpr int W = kLanes<T>;
  const Vec<T> low = __builtin_shuffle(a, b, Index{((I & S) == 0 ? I : W + I - S)...});
  const Vec<T> high = __builtin_shuffle(a, b, Index{((I & S) == 0 ? I + S : W + I)...});
  a = low;
  b = high;
}

template <class T, int S>
inline __attribute__((always_inline)) void transpose_stage(Vec<T> (&v)[kLanes<T>]) {
  constexpr int W = kLanes<T>;
  if constexpr (S < W) {
#pragma GCC unroll 16
    for (int i = 0; i < W; ++i) {
      if ((i & S) == 0) exchange<T, S>(v[i], v[i + S], std::make_integer_sequence<int, W>{});
    }
    transpose_stage<T, S * 2>(v);
  }
}

}  // namespace
}  // namespace seo_kernels::cpu
