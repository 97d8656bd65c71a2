// Elements as tensors store them, and 16 bytes of them at a time.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "cuda/executor.h"
#include "params/tensor_view.h"

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

namespace seo_kernels::cuda {

struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

// What results are computed in.
template <class S>
using AccOf = std::conditional_t<std::is_same_v<S, double>, double, float>;

template <class To, class From>
SK_DEVICE inline To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof(to));
  return to;
}

SK_DEVICE inline double widen(double x) { return x; }
SK_DEVICE inline float widen(float x) { return x; }
SK_DEVICE inline float widen(BFloat16 x) { return bits_as<float>(static_cast<uint32_t>(x.bits) << 16); }

template <class S>
SK_DEVICE inline S narrow(AccOf<S> x);
template <>
SK_DEVICE inline double narrow<double>(double x) {
  return x;
}
template <>
SK_DEVICE inline float narrow<float>(float x) {
  return x;
}
#if defined(__CUDACC__)
SK_DEVICE inline float widen(Float16 x) { return __half2float(bits_as<__half>(x.bits)); }
template <>
SK_DEVICE inline Float16 narrow<Float16>(float x) {
  return {bits_as<uint16_t>(__float2half_rn(x))};
}
// Rounds to nearest even; NaN stays NaN.
template <>
SK_DEVICE inline BFloat16 narrow<BFloat16>(float x) {
  return {bits_as<uint16_t>(__float2bfloat16_rn(x))};
}
#else
// Rounds to nearest even; NaN stays NaN.
template <>
inline BFloat16 narrow<BFloat16>(float x) {
  const uint32_t bits = bits_as<uint32_t>(x);
  if (x != x) return {static_cast<uint16_t>(bits >> 16 | 0x40u)};
  return {static_cast<uint16_t>((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16)};
}
inline float widen(Float16 x) { return static_cast<float>(bits_as<_Float16>(x.bits)); }
template <>
inline Float16 narrow<Float16>(float x) {
  return {bits_as<uint16_t>(static_cast<_Float16>(x))};
}
#endif

// N neighbouring elements, read or written in one access where they are 16 bytes; then the address is a multiple of 16.
template <class S, int N>
struct alignas(N == 1 ? alignof(S) : 16) Chunk {
  S element[N];
};
template <class S>
constexpr int kChunk = 16 / static_cast<int>(sizeof(S));

template <int N, class S>
SK_DEVICE inline Chunk<S, N> load_chunk(const S* from) {
  return *reinterpret_cast<const Chunk<S, N>*>(from);
}
template <int N, class S>
SK_DEVICE inline void store_chunk(S* to, const Chunk<S, N>& chunk) {
#if defined(__CUDACC__)
  if constexpr (N > 1) {  // 16 bytes at a time: an assignment nvcc would split, member by member
    struct Words {
      uint4 of[sizeof(chunk) / 16];
    };
    const Words words = bits_as<Words>(chunk);
#pragma unroll
    for (size_t n = 0; n < sizeof(chunk) / 16; ++n) __stwb(reinterpret_cast<uint4*>(to) + n, words.of[n]);
    return;
  }
#endif
  *reinterpret_cast<Chunk<S, N>*>(to) = chunk;
}

// Calls f with a value of the stored type.
template <class F>
inline void with_dtype(DType dtype, F f) {
  switch (dtype) {
    case DType::kFloat64:
      return f(double{});
    case DType::kBFloat16:
      return f(BFloat16{});
    case DType::kFloat16:
      return f(Float16{});
    default:
      return f(float{});
  }
}

}  // namespace seo_kernels::cuda
