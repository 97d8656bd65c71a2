// Register-tiled matrix product on packed operands: C (+)= A B.
//
// A is read by broadcast, B and C by whole vectors, so that one kernel serves all products of attention. An engine says
// what an operand is and how to multiply-accumulate: float, double, or a pair of bfloat16 along the inner dimension.
#pragma once

#include "cpu/isa/tile_gemm.h"

namespace seo_kernels::cpu {
namespace {

struct Float64Engine {
  using Acc = double;
  using Operand = double;
  static constexpr int kPack = 1;  // inner-dimension entries per operand
  static inline __attribute__((always_inline)) Vec<Acc> multiply_add(Operand a, Vec<Operand> b, Vec<Acc> c) {
    return splat(a) * b + c;
  }
  static inline __attribute__((always_inline)) Vec<Acc> multiply_add(Vec<Operand> a, Vec<Operand> b, Vec<Acc> c) {
    return a * b + c;
  }
};

struct Float32Engine {
  using Acc = float;
  using Operand = float;
  static constexpr int kPack = 1;
  static inline __attribute__((always_inline)) Vec<Acc> multiply_add(Operand a, Vec<Operand> b, Vec<Acc> c) {
    return splat(a) * b + c;
  }
  static inline __attribute__((always_inline)) Vec<Acc> multiply_add(Vec<Operand> a, Vec<Operand> b, Vec<Acc> c) {
    return a * b + c;
  }
};

#if defined(SK_ISA_AVX512_BF16)
// Where there are tile registers, products of matrices run on them, and of vectors here.
struct BFloat16Engine {
  using Acc = float;
  using Operand = uint32_t;  // (low: even entry, high: odd entry)
  static constexpr int kPack = 2;
  static inline __attribute__((always_inline)) Vec<Acc> multiply_add(Operand a, Vec<Operand> b, Vec<Acc> c) {
    return (Vec<Acc>)_mm512_dpbf16_ps((__m512)c, (__m512bh)_mm512_set1_epi32(static_cast<int>(a)), (__m512bh)b);
  }
  static inline __attribute__((always_inline)) Vec<Acc> multiply_add(Vec<Operand> a, Vec<Operand> b, Vec<Acc> c) {
    return (Vec<Acc>)_mm512_dpbf16_ps((__m512)c, (__m512bh)a, (__m512bh)b);
  }
};
#endif

// Whether an engine's products of matrices run on tile registers.
template <class E>
constexpr bool kOnTiles =
#if defined(SK_ISA_AMX_BF16)
    E::kPack == 2;
#else
    false;
#endif

constexpr int kRowBlock = 6;

// How A lies in memory: element (row, inner) at row * ld + inner, or, transposed, at inner * ld + row.
enum class Lay { kRows, kColumns };

// How B lies in memory: row by row, ld apart; or column vector by column vector, each (inner, lanes), ld apart.
enum class RightLay { kRows, kVectors };

// Memory asked for while a product runs, because what comes next will read it: a line every kSteps steps along the
// inner dimension, so that the requests do not get in the way of the product's own.
struct Ahead {
  static constexpr int kSteps = 4;

  const char* line = nullptr;  // null: nothing
  int64_t stride = 0;          // bytes

  // What a product of so many steps has left.
  Ahead after(int64_t inner) const { return {line + inner / kSteps * stride, stride}; }
};

template <class E, Lay L, RightLay R, int MR, int NV>
inline __attribute__((always_inline)) void micro_kernel(int64_t inner, const typename E::Operand* a, int64_t lda,
                                                        const typename E::Operand* b, int64_t ldb, typename E::Acc* c,
                                                        int64_t ldc, bool accumulate, Ahead ahead) {
  using Acc = typename E::Acc;
  using Operand = typename E::Operand;
  constexpr int W = kLanes<Acc>;
  Vec<Acc> sum[MR][NV] = {};
  const auto step = [&](int64_t k) __attribute__((always_inline)) {
    Vec<Operand> bv[NV];
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) bv[j] = load(b + j * (R == RightLay::kRows ? W : ldb));
    const Operand* ak = L == Lay::kRows ? a + k : a + k * lda;
#pragma GCC unroll 6
    for (int i = 0; i < MR; ++i) {
      const Operand av = ak[L == Lay::kRows ? i * lda : i];
#pragma GCC unroll 4
      for (int j = 0; j < NV; ++j) sum[i][j] = E::multiply_add(av, bv[j], sum[i][j]);
    }
    b += R == RightLay::kRows ? ldb : W;
  };
  int64_t k = 0;
  for (; ahead.line && k + Ahead::kSteps <= inner; k += Ahead::kSteps) {
    __builtin_prefetch(ahead.line, 0, 2);
    ahead.line += ahead.stride;
#pragma GCC unroll 4
    for (int n = 0; n < Ahead::kSteps; ++n) step(k + n);
  }
  for (; k < inner; ++k) step(k);
  if (accumulate) {
#pragma GCC unroll 6
    for (int i = 0; i < MR; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < NV; ++j) store(c + i * ldc + j * W, load(c + i * ldc + j * W) + sum[i][j]);
    }
  } else {
#pragma GCC unroll 6
    for (int i = 0; i < MR; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < NV; ++j) store(c + i * ldc + j * W, sum[i][j]);
    }
  }
}

template <class E, Lay L, RightLay R, int MR, int NV>
__attribute__((noinline)) void micro_kernel_call(int64_t inner, const typename E::Operand* a, int64_t lda,
                                                 const typename E::Operand* b, int64_t ldb, typename E::Acc* c,
                                                 int64_t ldc, bool accumulate, Ahead ahead) {
  micro_kernel<E, L, R, MR, NV>(inner, a, lda, b, ldb, c, ldc, accumulate, ahead);
}

// MR rows, any number of column vectors.
template <class E, Lay L, int MR>
inline void gemm_row_block(int64_t column_vectors, int64_t inner, const typename E::Operand* a, int64_t lda,
                           const typename E::Operand* b, int64_t ldb, typename E::Acc* c, int64_t ldc, bool accumulate,
                           Ahead ahead) {
  constexpr int W = kLanes<typename E::Acc>;
  int64_t j = 0;
  for (; j + kMaxColumnVectors <= column_vectors; j += kMaxColumnVectors) {
    micro_kernel_call<E, L, RightLay::kRows, MR, kMaxColumnVectors>(inner, a, lda, b + j * W, ldb, c + j * W, ldc,
                                                                    accumulate, ahead);
  }
  switch (column_vectors - j) {
    case 3:
      if constexpr (kMaxColumnVectors > 3) {
        micro_kernel_call<E, L, RightLay::kRows, MR, 3>(inner, a, lda, b + j * W, ldb, c + j * W, ldc, accumulate,
                                                        ahead);
      }
      break;
    case 2:
      if constexpr (kMaxColumnVectors > 2) {
        micro_kernel_call<E, L, RightLay::kRows, MR, 2>(inner, a, lda, b + j * W, ldb, c + j * W, ldc, accumulate,
                                                        ahead);
      }
      break;
    case 1:
      micro_kernel_call<E, L, RightLay::kRows, MR, 1>(inner, a, lda, b + j * W, ldb, c + j * W, ldc, accumulate, ahead);
      break;
    default:
      break;
  }
}

// C (rows x column_vectors * lanes) = or += A (rows x inner) B (inner x columns).
template <class E, Lay L>
void gemm(int64_t rows, int64_t column_vectors, int64_t inner, const typename E::Operand* a, int64_t lda,
          const typename E::Operand* b, int64_t ldb, typename E::Acc* c, int64_t ldc, bool accumulate,
          Ahead ahead = {}) {
#if defined(SK_ISA_AMX_BF16)
  if constexpr (E::kPack == 2) {
    const auto product = L == Lay::kRows ? tile_product : tile_product_columns;
    return product(rows, column_vectors, inner, a, lda, b, ldb, kLanes<float>, c, ldc, accumulate);
  }
#endif
  const auto at = [&](int64_t i) { return a + (L == Lay::kRows ? i * lda : i); };
  int64_t i = 0;
  for (; i + kRowBlock <= rows; i += kRowBlock) {
    gemm_row_block<E, L, kRowBlock>(column_vectors, inner, at(i), lda, b, ldb, c + i * ldc, ldc, accumulate, ahead);
    ahead = ahead.after(inner);
  }
  for (; i + 4 <= rows; i += 4) {
    gemm_row_block<E, L, 4>(column_vectors, inner, at(i), lda, b, ldb, c + i * ldc, ldc, accumulate, ahead);
  }
  for (; i + 2 <= rows; i += 2) {
    gemm_row_block<E, L, 2>(column_vectors, inner, at(i), lda, b, ldb, c + i * ldc, ldc, accumulate, ahead);
  }
  for (; i < rows; ++i) {
    gemm_row_block<E, L, 1>(column_vectors, inner, at(i), lda, b, ldb, c + i * ldc, ldc, accumulate, ahead);
  }
}

// C = A B with B by column vectors, NV of them.
template <class E, int NV>
inline void gemm_vectors(int64_t rows, int64_t inner, const typename E::Operand* a, int64_t lda,
                         const typename E::Operand* b, int64_t ldb, typename E::Acc* c, int64_t ldc) {
  int64_t i = 0;
  const auto block = [&]<int MR>() {
    for (; i + MR <= rows; i += MR) {
      micro_kernel_call<E, Lay::kRows, RightLay::kVectors, MR, NV>(inner, a + i * lda, lda, b, ldb, c + i * ldc, ldc,
                                                                   false, {});
    }
  };
  block.template operator()<kRowBlock>();
  block.template operator()<4>();
  block.template operator()<2>();
  block.template operator()<1>();
}

// The same with their number, from 1 to kMaxColumnVectors, known at run time.
template <class E>
inline void gemm_vectors(int vectors, int64_t rows, int64_t inner, const typename E::Operand* a, int64_t lda,
                         const typename E::Operand* b, int64_t ldb, typename E::Acc* c, int64_t ldc) {
#if defined(SK_ISA_AMX_BF16)
  if constexpr (E::kPack == 2) return tile_product(rows, vectors, inner, a, lda, b, kLanes<float>, ldb, c, ldc, false);
#endif
  static_assert(kMaxColumnVectors == 2 || kMaxColumnVectors == 4);
  if constexpr (kMaxColumnVectors == 4) {
    if (vectors == 4) return gemm_vectors<E, 4>(rows, inner, a, lda, b, ldb, c, ldc);
    if (vectors == 3) return gemm_vectors<E, 3>(rows, inner, a, lda, b, ldb, c, ldc);
  }
  if (vectors == 2) return gemm_vectors<E, 2>(rows, inner, a, lda, b, ldb, c, ldc);
  gemm_vectors<E, 1>(rows, inner, a, lda, b, ldb, c, ldc);
}

// Vectors or operands [begin, end).
struct VectorRange {
  int begin, end;
};

// Cuts [begin, end) into pieces of much the same size, none above `most`, and calls f with each.
template <class F>
inline __attribute__((always_inline)) void for_each_piece(int begin, int end, int most, F f) {
  for (int left = (end - begin + most - 1) / most; left > 0; --left) {
    const int size = (end - begin + left - 1) / left;
    f(VectorRange{begin, begin + size});
    begin += size;
  }
}

}  // namespace
}  // namespace seo_kernels::cpu
