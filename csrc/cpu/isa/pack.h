// Between tensors and operands: loading rows of any dtype and stride, rounding to operands, transposing panels.
#pragma once

#include <algorithm>
#include <type_traits>

#include "cpu/attention_params.h"
#include "cpu/isa/gemm.h"
#include "cpu/isa/transpose.h"

namespace seo_kernels::cpu {
namespace {

inline int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

inline float bfloat16_to_float(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof(value));
  return value;
}

// Round to nearest even; NaN stays NaN.
inline uint16_t float_to_bfloat16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  const uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
  return static_cast<uint16_t>((bits & 0x7FFFFFFFu) > 0x7F800000u ? (bits >> 16) | 0x40u : rounded);
}

inline float float16_to_float(uint16_t bits) {
#if defined(__F16C__)
  return _cvtsh_ss(bits);
#else
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
  const uint32_t magnitude = bits & 0x7FFFu;
  uint32_t wide;
  if (magnitude >= 0x7C00u) {
    wide = 0x7F800000u | (magnitude & 0x3FFu) << 13;
  } else if (magnitude >= 0x400u) {
    wide = (magnitude << 13) + (112u << 23);
  } else {
    const float subnormal = static_cast<float>(magnitude) * 5.9604644775390625e-8f;  // 2^-24
    std::memcpy(&wide, &subnormal, sizeof(wide));
  }
  wide |= sign;
  float value;
  std::memcpy(&value, &wide, sizeof(value));
  return value;
#endif
}

inline uint16_t float_to_float16(float value) {
#if defined(__F16C__)
  return static_cast<uint16_t>(_cvtss_sh(value, _MM_FROUND_TO_NEAREST_INT));
#else
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const uint32_t magnitude = bits & 0x7FFFFFFFu;
  if (magnitude > 0x7F800000u) return sign | 0x7E00u;
  if (magnitude >= 0x477FF000u) return sign | 0x7C00u;  // rounds to 2^16 or beyond
  if (magnitude < 0x38800000u) {                        // subnormal in float16
    float small;
    std::memcpy(&small, &magnitude, sizeof(small));
    const float shifted = small + 0.5f;  // the sum's last bit is 2^-24: the addition rounds
    uint32_t out;
    std::memcpy(&out, &shifted, sizeof(out));
    return static_cast<uint16_t>(sign | (out - 0x3F000000u));
  }
  const uint32_t rounded = magnitude + 0xFFFu + ((magnitude >> 13) & 1u);
  return static_cast<uint16_t>(sign | ((rounded - (112u << 23)) >> 13));
#endif
}

template <class Acc>
inline void load_row(const void* data, DType dtype, int64_t offset, int64_t stride, int64_t count, Acc* to) {
  const auto convert = [&](auto* from, auto widen) {
    from += offset;
    if (stride == 1) {
      for (int64_t n = 0; n < count; ++n) to[n] = static_cast<Acc>(widen(from[n]));
    } else {
      for (int64_t n = 0; n < count; ++n) to[n] = static_cast<Acc>(widen(from[n * stride]));
    }
  };
  switch (dtype) {
    case DType::kFloat32:
      return convert(static_cast<const float*>(data), [](float x) { return x; });
    case DType::kFloat64:
      return convert(static_cast<const double*>(data), [](double x) { return x; });
    case DType::kBFloat16:
      return convert(static_cast<const uint16_t*>(data), bfloat16_to_float);
    case DType::kFloat16:
      return convert(static_cast<const uint16_t*>(data), float16_to_float);
    case DType::kBool:
      return convert(static_cast<const uint8_t*>(data), [](uint8_t x) { return x ? 1.0f : 0.0f; });
  }
}

template <class Acc>
inline void store_row(void* data, DType dtype, int64_t offset, int64_t stride, int64_t count, const Acc* from) {
  const auto convert = [&](auto* to, auto narrow) {
    to += offset;
    for (int64_t n = 0; n < count; ++n) to[n * stride] = narrow(from[n]);
  };
  switch (dtype) {
    case DType::kFloat32:
      return convert(static_cast<float*>(data), [](Acc x) { return static_cast<float>(x); });
    case DType::kFloat64:
      return convert(static_cast<double*>(data), [](Acc x) { return static_cast<double>(x); });
    case DType::kBFloat16:
      return convert(static_cast<uint16_t*>(data), [](Acc x) { return float_to_bfloat16(static_cast<float>(x)); });
    case DType::kFloat16:
      return convert(static_cast<uint16_t*>(data), [](Acc x) { return float_to_float16(static_cast<float>(x)); });
    case DType::kBool:
      return;
  }
}

// Rows of this view can serve as operands where they lie.
template <class E>
inline bool readable_in_place(const TensorView& view) {
  constexpr DType acc = sizeof(typename E::Acc) == 8 ? DType::kFloat64 : DType::kFloat32;
  return view && E::kPack == 1 && view.dtype == acc && view.stride[3] == 1;
}

// The same for the operands of a row side by side: also pairs of bfloat16 in memory.
template <class E>
inline bool operands_in_place(const TensorView& view) {
  if constexpr (E::kPack == 1) return readable_in_place<E>(view);
  return view.dtype == DType::kBFloat16 && view.stride[3] == 1 && view.stride[2] % 2 == 0;
}

template <class T>
inline const T* row_pointer(const TensorView& view, int64_t batch, int64_t head, int64_t row) {
  return static_cast<const T*>(view.data) + batch * view.stride[0] + head * view.stride[1] + row * view.stride[2];
}

// Rows [row, row + rows) of head (batch, head) of a view as acc, zero-padded to (padded_rows, ld).
template <class Acc>
inline void load_rows(const TensorView& view, int64_t batch, int64_t head, int64_t row, int64_t rows, int64_t columns,
                      Acc* to, int64_t ld, int64_t padded_rows) {
  const int64_t base = batch * view.stride[0] + head * view.stride[1] + row * view.stride[2];
  for (int64_t r = 0; r < rows; ++r) {
    load_row(view.data, view.dtype, base + r * view.stride[2], view.stride[3], columns, to + r * ld);
    std::fill(to + r * ld + columns, to + (r + 1) * ld, Acc(0));
  }
  std::fill(to + rows * ld, to + std::max(rows, padded_rows) * ld, Acc(0));
}

template <class Acc>
inline void store_rows(const TensorView& view, int64_t batch, int64_t head, int64_t row, int64_t rows, int64_t columns,
                       const Acc* from, int64_t ld) {
  const int64_t base = batch * view.stride[0] + head * view.stride[1] + row * view.stride[2];
  for (int64_t r = 0; r < rows; ++r) {
    store_row(view.data, view.dtype, base + r * view.stride[2], view.stride[3], columns, from + r * ld);
  }
}

// Operands whose pairs run along a row (A of a product, inner dimension along the row). columns: a multiple of kPack.
template <class E>
inline void to_operand_rows(const typename E::Acc* from, int64_t from_ld, int64_t rows, int64_t columns,
                            typename E::Operand* to, int64_t to_ld) {
  for (int64_t r = 0; r < rows; ++r) {
    const typename E::Acc* source = from + r * from_ld;
    typename E::Operand* target = to + r * to_ld;
    if constexpr (E::kPack == 1) {
      for (int64_t n = 0; n < columns; ++n) target[n] = source[n];
    } else {
#if defined(SK_ISA_AVX512_BF16)
      int64_t n = 0;
      for (; n + 32 <= columns; n += 32) {
        const __m512bh pairs = _mm512_cvtne2ps_pbh((__m512)load(source + n + 16), (__m512)load(source + n));
        std::memcpy(target + n / 2, &pairs, sizeof(pairs));
      }
      for (; n < columns; n += 2) {
        target[n / 2] = float_to_bfloat16(source[n]) | static_cast<uint32_t>(float_to_bfloat16(source[n + 1])) << 16;
      }
#endif
    }
  }
}

// One vector of accs at an offset (in accs) of a row, as operands.
template <class E>
inline __attribute__((always_inline)) void store_operands(typename E::Operand* row, int64_t at,
                                                          Vec<typename E::Acc> v) {
  if constexpr (E::kPack == 1) {
    store(row + at, v);
  } else {
#if defined(SK_ISA_AVX512_BF16)
    const __m256bh rounded = _mm512_cvtneps_pbh((__m512)v);
    std::memcpy(row + at / 2, &rounded, sizeof(rounded));
#endif
  }
}

// Two vectors of accs, the second after the first.
template <class E>
inline __attribute__((always_inline)) void store_operands(typename E::Operand* row, int64_t at,
                                                          Vec<typename E::Acc> first, Vec<typename E::Acc> second) {
#if defined(SK_ISA_AVX512_BF16)
  if constexpr (E::kPack == 2) {
    const __m512bh rounded = _mm512_cvtne2ps_pbh((__m512)second, (__m512)first);
    std::memcpy(row + at / 2, &rounded, sizeof(rounded));
    return;
  }
#endif
  store_operands<E>(row, at, first);
  store_operands<E>(row, at + kLanes<typename E::Acc>, second);
}

// The same, but without a copy where an operand is an acc.
template <class E>
inline const typename E::Operand* operand_rows(const typename E::Acc* from, int64_t from_ld, int64_t rows,
                                               int64_t columns, typename E::Operand* to, int64_t to_ld) {
  if constexpr (E::kPack == 1) {
    return from;
  } else {
    to_operand_rows<E>(from, from_ld, rows, columns, to, to_ld);
    return to;
  }
}

#if defined(SK_ISA_AVX512_BF16)
// A vector of each of two rows as pairs that run down the columns.
inline __attribute__((always_inline)) __m512i pair_rows(Vec<float> even, Vec<float> odd) {
  alignas(64) constexpr uint16_t interleave[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                   8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  return _mm512_permutexvar_epi16(_mm512_load_si512(interleave),
                                  (__m512i)_mm512_cvtne2ps_pbh((__m512)odd, (__m512)even));
}
#endif

// Operands whose pairs run down a column (B of a product, inner dimension along rows): (ceil(rows / kPack), columns).
// columns: a multiple of the vector width.
template <class E>
inline void to_operand_columns(const typename E::Acc* from, int64_t from_ld, int64_t rows, int64_t columns,
                               typename E::Operand* to, int64_t to_ld) {
  if constexpr (E::kPack == 1) {
    to_operand_rows<E>(from, from_ld, rows, columns, to, to_ld);
  } else {
#if defined(SK_ISA_AVX512_BF16)
    for (int64_t r = 0; r < rows; r += 2) {
      const float* even = from + r * from_ld;
      for (int64_t n = 0; n < columns; n += 16) {
        const __m512i pairs = pair_rows(load(even + n), r + 1 < rows ? load(even + from_ld + n) : Vec<float>{});
        std::memcpy(to + r / 2 * to_ld + n, &pairs, sizeof(pairs));
      }
    }
#endif
  }
}

template <class E>
inline const typename E::Operand* operand_columns(const typename E::Acc* from, int64_t from_ld, int64_t rows,
                                                  int64_t columns, typename E::Operand* to, int64_t to_ld) {
  if constexpr (E::kPack == 1) {
    return from;
  } else {
    to_operand_columns<E>(from, from_ld, rows, columns, to, to_ld);
    return to;
  }
}

// from (rows, columns) transposed; both multiples of the lanes.
template <class T>
inline void transpose(const T* from, int64_t from_ld, int64_t rows, int64_t columns, T* to, int64_t to_ld) {
  constexpr int W = kLanes<T>;
  for (int64_t row = 0; row < rows; row += W) {
    for (int64_t column = 0; column < columns; column += W) {
      Vec<T> block[W];
#pragma GCC unroll 16
      for (int i = 0; i < W; ++i) block[i] = load(from + (row + i) * from_ld + column);
      transpose_stage<T, 1>(block);
#pragma GCC unroll 16
      for (int i = 0; i < W; ++i) store(to + (column + i) * to_ld + row, block[i]);
    }
  }
}

// from (kPanel, columns) transposed, by vectors: to (kPanel / lanes, columns, lanes); columns: a multiple of the lanes.
template <class T>
inline void transpose_panel(const T* from, int64_t from_ld, int64_t columns, T* to) {
  constexpr int W = kLanes<T>;
  for (int64_t row = 0; row < kPanel; row += W) {
    transpose(from + row * from_ld, from_ld, W, columns, to + row * columns, W);
  }
}

}  // namespace
}  // namespace seo_kernels::cpu
