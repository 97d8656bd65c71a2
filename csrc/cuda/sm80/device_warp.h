// The device side of warp.h, by CuTe.
#pragma once

#include <cute/arch/copy_sm75.hpp>
#include <cute/arch/copy_sm80.hpp>
#include <cute/arch/mma_sm80.hpp>

namespace seo_kernels::cuda {

template <bool Turned, class Block, class Memory, class To, class From>
SK_DEVICE inline void read_matrices(Block& block, Memory& memory, To to, From from) {
  const int thread = block.thread();
  const auto& source = *reinterpret_cast<const cute::uint128_t*>(memory.address(from(thread)));
  Fragment& f = to(thread);
  if constexpr (Turned) {
    cute::SM75_U16x8_LDSM_T::copy(source, f.at[0], f.at[1], f.at[2], f.at[3]);
  } else {
    cute::SM75_U32x4_LDSM_N::copy(source, f.at[0], f.at[1], f.at[2], f.at[3]);
  }
}

// right(thread): two registers
template <class S, class Block, class To, class Left, class Right>
SK_DEVICE inline void multiply(Block& block, To to, Left left, Right right) {
  using Mma = std::conditional_t<std::is_same_v<S, BFloat16>, cute::SM80_16x8x16_F32BF16BF16F32_TN,
                                 cute::SM80_16x8x16_F32F16F16F32_TN>;
  const int thread = block.thread();
  float (&c)[4] = to(thread).at;
  const uint32_t (&a)[4] = left(thread).at;
  const uint32_t* b = right(thread);
  Mma::fma(c[0], c[1], c[2], c[3], a[0], a[1], a[2], a[3], b[0], b[1], c[0], c[1], c[2], c[3]);
}

template <class Memory, class S>
SK_DEVICE inline void begin_copy(Memory& memory, int n, const S* from, bool there) {
  const auto* source = reinterpret_cast<const cute::uint128_t*>(from);
  auto* to = reinterpret_cast<cute::uint128_t*>(memory.address(n));
  cute::SM80_CP_ASYNC_CACHEGLOBAL_ZFILL<cute::uint128_t>::copy(*source, *to, there);
}

template <class Block>
SK_DEVICE inline void commit_copies(Block&) {
  cute::cp_async_fence();
}
template <int Late, class Block>
SK_DEVICE inline void wait_for_copies(Block&) {
  cute::cp_async_wait<Late>();
}

// Two entries of a fragment's register, the first in the low half.
template <class S>
SK_DEVICE inline uint32_t narrow_pair(float first, float second) {
  if constexpr (std::is_same_v<S, BFloat16>) {
    return bits_as<uint32_t>(__floats2bfloat162_rn(first, second));
  } else {
    return bits_as<uint32_t>(__floats2half2_rn(first, second));
  }
}

}  // namespace seo_kernels::cuda
