// Elementwise work along rows: a few vectors at a time, so that their dependent chains overlap.
//
// Files that include this first ask g++ to schedule instructions before it assigns registers: without that it leaves
// the chains one behind the other.
#pragma once

#include <array>

#include "cpu/activation_params.h"
#include "cpu/isa/activation/vector_activation.h"
#include "cpu/isa/stored.h"

namespace seo_kernels::cpu {
namespace {

// Vectors per block: as many as the registers hold.
template <class Acc>
constexpr int kVectors = kVectorBytes == 64 && sizeof(Acc) == 4 ? 4 : 1;
template <class Acc>
constexpr int64_t kBlock = kVectors<Acc> * kLanes<Acc>;
static_assert(kBlock<float> <= kActivationPadding && kBlock<double> <= kActivationPadding);

template <class Acc>
struct Block {
  Vec<Acc> vector[kVectors<Acc>];
};

template <class Acc, class S>
inline __attribute__((always_inline)) Block<Acc> load_block(const S* from) {
  Block<Acc> block;
#pragma GCC unroll 4
  for (int v = 0; v < kVectors<Acc>; ++v) block.vector[v] = load_wide<Acc>(from + v * kLanes<Acc>);
  return block;
}

// f of the vectors at the same place of each block.
template <class Acc, class F, class... Blocks>
inline __attribute__((always_inline)) Block<Acc> map_blocks(F f, const Blocks&... blocks) {
  Block<Acc> result;
#pragma GCC unroll 4
  for (int v = 0; v < kVectors<Acc>; ++v) result.vector[v] = f(blocks.vector[v]...);
  return result;
}

template <class Acc>
inline __attribute__((always_inline)) Block<Acc> sum_of(const Block<Acc>& a, const Block<Acc>& b) {
  return map_blocks<Acc>([](Vec<Acc> x, Vec<Acc> y) __attribute__((always_inline)) { return x + y; }, a, b);
}

template <class Acc>
inline __attribute__((always_inline)) Block<Acc> product_of(const Block<Acc>& a, const Block<Acc>& b) {
  return map_blocks<Acc>([](Vec<Acc> x, Vec<Acc> y) __attribute__((always_inline)) { return x * y; }, a, b);
}

#if defined(SK_ISA_AVX512_BF16)
// By the conversion instruction, which flushes denormals: false where there are any.
template <class Acc>
inline __attribute__((always_inline)) bool convert_block(BFloat16* to, const Block<Acc>& block) {
  constexpr int kDenormal = 0x20;
  unsigned denormal = 0;
#pragma GCC unroll 4
  for (int v = 0; v < kVectors<Acc>; ++v) denormal |= _mm512_fpclass_ps_mask((__m512)block.vector[v], kDenormal);
  if (__builtin_expect(denormal != 0, 0)) return false;
#pragma GCC unroll 4
  for (int v = 0; v < kVectors<Acc>; ++v) {
    const __m256bh rounded = _mm512_cvtneps_pbh((__m512)block.vector[v]);
    std::memcpy(to + v * kLanes<Acc>, &rounded, sizeof(rounded));
  }
  return true;
}
#endif

template <class S, class Acc>
inline __attribute__((always_inline)) void store_block(S* to, const Block<Acc>& block) {
#if defined(SK_ISA_AVX512_BF16)
  if constexpr (std::is_same_v<S, BFloat16>) {
    if (convert_block<Acc>(to, block)) return;
  }
#endif
#pragma GCC unroll 4
  for (int v = 0; v < kVectors<Acc>; ++v) store_narrow<S, Acc>(to + v * kLanes<Acc>, block.vector[v]);
}

// The same past the caches, so that what is written is not read first and displaces nothing; `to` is aligned.
template <class S, class Acc>
inline void stream_block(S* to, const Block<Acc>& block) {
  constexpr int64_t kBytes = kBlock<Acc> * sizeof(S);
  alignas(64) S copy[kBlock<Acc>];
  store_block<S, Acc>(copy, block);
#if defined(__AVX512F__) || defined(__AVX2__)
  if constexpr (kBytes % kVectorBytes == 0) {
    for (int64_t at = 0; at < kBytes; at += kVectorBytes) {
      const char* from = reinterpret_cast<const char*>(copy) + at;
      char* line = reinterpret_cast<char*>(to) + at;
#if defined(__AVX512F__)
      _mm512_stream_si512(reinterpret_cast<__m512i*>(line), _mm512_load_si512(from));
#else
      _mm256_stream_si256(reinterpret_cast<__m256i*>(line), _mm256_load_si256(reinterpret_cast<const __m256i*>(from)));
#endif
    }
    return;
  }
#endif
  std::memcpy(to, copy, kBytes);
}

template <class S, class Acc>
inline __attribute__((always_inline)) void put_block(S* to, const Block<Acc>& block, bool stream) {
  if (__builtin_expect(stream, 0)) {
    stream_block<S, Acc>(to, block);
  } else {
    store_block<S, Acc>(to, block);
  }
}

// Null for a matrix that is absent.
template <class S>
inline S* row_of(const MatrixView& matrix, int64_t row) {
  return matrix ? static_cast<S*>(matrix.data) + row * matrix.row_stride : nullptr;
}

// Asks for what a block reads, a few blocks ahead: the processor itself stops at the end of a page. What lies past the
// end of a tensor does no harm.
template <class Acc, class S>
inline __attribute__((always_inline)) void prefetch_block(const S* from) {
  constexpr int64_t kAhead = 1024, kLine = 64;  // bytes
  for (int64_t at = 0; at < kBlock<Acc> * static_cast<int64_t>(sizeof(S)); at += kLine) {
    __builtin_prefetch(reinterpret_cast<const char*>(from) + kAhead + at);
  }
}

// Calls block(in, out, column) for the blocks of a row; a last, partial one works on copies, padded with zeros.
// `in` and `out` point to the block; an output may be null.
template <class Acc, class S, size_t Inputs, size_t Outputs, class F>
inline __attribute__((always_inline)) void for_blocks(std::array<const S*, Inputs> in, std::array<S*, Outputs> out,
                                                      int64_t columns, F block) {
  int64_t column = 0;
  for (; column + kBlock<Acc> <= columns; column += kBlock<Acc>) {
    for (const S* from : in) prefetch_block<Acc>(from);
    block(in, out, column);
    for (const S*& from : in) from += kBlock<Acc>;
    for (S*& to : out) to = to ? to + kBlock<Acc> : nullptr;
  }
  const int64_t rest = columns - column;
  if (rest == 0) return;
  alignas(64) S copies[Inputs + Outputs][kBlock<Acc>] = {};
  std::array<const S*, Inputs> padded_in;
  std::array<S*, Outputs> padded_out;
  for (size_t n = 0; n < Inputs; ++n) {
    std::copy_n(in[n], rest, copies[n]);
    padded_in[n] = copies[n];
  }
  for (size_t n = 0; n < Outputs; ++n) padded_out[n] = out[n] ? copies[Inputs + n] : nullptr;
  block(padded_in, padded_out, column);
  for (size_t n = 0; n < Outputs; ++n) {
    if (out[n]) std::copy_n(padded_out[n], rest, out[n]);
  }
}

inline int64_t columns_of_row(const ActivationParams& p, const MatrixView& matrix, int64_t row) {
  return row + 1 == matrix.rows ? p.last_columns : matrix.columns;
}

// Orders streamed stores before whatever tells other threads that they are done.
inline void finish_streams(const ActivationParams& p) {
#if defined(__AVX512F__) || defined(__AVX2__)
  if (p.stream) _mm_sfence();
#else
  static_cast<void>(p);
#endif
}

// What a kernel is compiled for.
template <class Stored, Activation Chosen>
struct Variant {
  using S = Stored;
  using Acc = std::conditional_t<std::is_same_v<S, double>, double, float>;
  using A = VectorArithmetic<Acc, std::is_same_v<S, BFloat16>>;
  static constexpr Activation kActivation = Chosen;
};

// Calls f with a value of the Variant that the parameters ask for.
template <class F>
inline void with_variant(const ActivationParams& p, DType dtype, F f) {
  with_activation(p.activation, [&](auto activation) {
    const auto call = [&](auto stored) { f(Variant<decltype(stored), decltype(activation)::value>{}); };
    dtype == DType::kFloat64 ? call(double{}) : with_stored<float>(dtype, call);
  });
}

}  // namespace
}  // namespace seo_kernels::cpu
