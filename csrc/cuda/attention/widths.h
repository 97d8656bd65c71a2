// The widths that sums in registers are compiled for.
#pragma once

#include <cstdint>
#include <type_traits>

namespace seo_kernels::cuda {

// Calls f with the smallest of them that is not below `width`.
template <class F>
inline void with_width(int64_t width, F f) {
  if (width <= 64) return f(std::integral_constant<int, 64>{});
  if (width <= 128) return f(std::integral_constant<int, 128>{});
  f(std::integral_constant<int, 256>{});
}

}  // namespace seo_kernels::cuda
