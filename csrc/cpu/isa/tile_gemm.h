// Matrix products of bfloat16 pairs on AMX tile registers: eight of up to 16 rows of 64 bytes.
//
// A tile of A is 16 rows of 16 pairs, one of B 16 pairs down by 16 columns: both as the packed operands lie for the
// vector kernels, so that these only replace them. Tiles are cut to what is left of a matrix: nothing is read past it.
#pragma once

#include <algorithm>

#include "cpu/isa/transpose.h"

namespace seo_kernels::cpu {
namespace {

constexpr int64_t kTileRows = 16;
constexpr int64_t kTileOperands = 16;  // pairs along the inner dimension

#if defined(SK_ISA_AMX_BF16)

// Tile instructions are opaque to the compiler: it must have stored what they load, and load what they stored.
inline __attribute__((always_inline)) void tile_fence() { asm volatile("" : : : "memory"); }

// The shapes of this thread's tiles: 0 to 3 are C (two rows of two), 4 and 5 are A, one above the other, 6 and 7 are B,
// side by side. Other libraries shape the tiles as they like: kernels begin with a TileSession.
class TileSession {
 public:
  TileSession() { shape_ = 0; }
  TileSession(const TileSession&) = delete;
  TileSession& operator=(const TileSession&) = delete;
  ~TileSession() {
    if (shape_ != 0) _tile_release();
    shape_ = 0;
  }

  // upper, lower: rows of A and C above and below; operands: the inner dimension.
  static inline void use(int64_t upper, int64_t lower, int64_t operands) {
    const int64_t shape = upper | lower << 8 | operands << 16;
    if (__builtin_expect(shape != shape_, 0)) configure(shape, upper, lower, operands);
  }

 private:
  struct alignas(64) Configuration {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};
  };

  static __attribute__((noinline)) void configure(int64_t shape, int64_t upper, int64_t lower, int64_t operands) {
    Configuration to;
    const auto set = [&](int tile, int64_t rows, int64_t columns) {
      to.rows[tile] = static_cast<uint8_t>(rows);
      to.row_bytes[tile] = static_cast<uint16_t>(rows > 0 ? columns * 4 : 0);
    };
    for (int n = 0; n < 4; ++n) set(n, n < 2 ? upper : lower, kTileRows);
    set(4, upper, operands);
    set(5, lower, operands);
    set(6, operands, kTileRows);
    set(7, operands, kTileRows);
    tile_fence();
    _tile_loadconfig(&to);
    shape_ = shape;
  }

  static inline thread_local int64_t shape_ __attribute__((tls_model("initial-exec"))) = 0;
};

// C (one or two tiles by one or two) = or += A B over steps * operands; strides in bytes.
template <int MT, int NT>
inline __attribute__((always_inline)) void tile_block(int64_t steps, const uint32_t* a, int64_t a_stride,
                                                      const uint32_t* b, int64_t b_stride, int64_t b_step,
                                                      int64_t b_beside, float* c, int64_t ldc, bool accumulate) {
  const int64_t c_stride = ldc * static_cast<int64_t>(sizeof(float));
  float* below = c + kTileRows * ldc;
  tile_fence();
  if (accumulate) {
    _tile_loadd(0, c, c_stride);
    if constexpr (NT > 1) _tile_loadd(1, c + 16, c_stride);
    if constexpr (MT > 1) _tile_loadd(2, below, c_stride);
    if constexpr (MT > 1 && NT > 1) _tile_loadd(3, below + 16, c_stride);
  } else {
    _tile_zero(0);
    if constexpr (NT > 1) _tile_zero(1);
    if constexpr (MT > 1) _tile_zero(2);
    if constexpr (MT > 1 && NT > 1) _tile_zero(3);
  }
  const char* a_below = reinterpret_cast<const char*>(a) + kTileRows * a_stride;
  for (; steps > 0; --steps) {
    _tile_loadd(6, b, b_stride);
    _tile_loadd(4, a, a_stride);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (MT > 1) {
      _tile_loadd(5, a_below, a_stride);
      _tile_dpbf16ps(2, 5, 6);
    }
    if constexpr (NT > 1) {
      _tile_loadd(7, b + b_beside, b_stride);
      _tile_dpbf16ps(1, 4, 7);
      if constexpr (MT > 1) _tile_dpbf16ps(3, 5, 7);
    }
    a += kTileOperands;
    a_below += kTileOperands * sizeof(uint32_t);
    b += b_step;
  }
  _tile_stored(0, c, c_stride);
  if constexpr (NT > 1) _tile_stored(1, c + 16, c_stride);
  if constexpr (MT > 1) _tile_stored(2, below, c_stride);
  if constexpr (MT > 1 && NT > 1) _tile_stored(3, below + 16, c_stride);
  tile_fence();
}

// C (32 x vectors * 16) = A B over 32 operands, with A in four tiles all the time. Each tile of C is stored while the
// next one is computed: storing four at once would wait for the last of them.
inline void tile_product_short(int64_t vectors, const uint32_t* a, int64_t lda, const uint32_t* b, int64_t b_row,
                               int64_t b_beside, float* c, int64_t ldc) {
  constexpr int64_t kBytes = sizeof(uint32_t);
  TileSession::use(kTileRows, kTileRows, kTileOperands);
  tile_fence();
  _tile_loadd(2, a, lda * kBytes);
  _tile_loadd(3, a + kTileOperands, lda * kBytes);
  _tile_loadd(4, a + kTileRows * lda, lda * kBytes);
  _tile_loadd(5, a + kTileRows * lda + kTileOperands, lda * kBytes);
  for (int64_t vector = 0; vector < vectors; ++vector) {
    _tile_loadd(6, b, b_row * kBytes);
    _tile_loadd(7, b + kTileOperands * b_row, b_row * kBytes);
    _tile_zero(0);
    _tile_dpbf16ps(0, 2, 6);
    _tile_dpbf16ps(0, 3, 7);
    _tile_stored(0, c, ldc * kBytes);
    _tile_zero(1);
    _tile_dpbf16ps(1, 4, 6);
    _tile_dpbf16ps(1, 5, 7);
    _tile_stored(1, c + kTileRows * ldc, ldc * kBytes);
    b += b_beside;
    c += kTileRows;
  }
  tile_fence();
}

// C (rows x vectors * 16) = or += A B. Element (row, pair) of A is at row * lda + pair. Of B, a row of a column vector
// is b_row further than the one before it, and a column vector b_beside further (in operands).
inline void tile_product(int64_t rows, int64_t vectors, int64_t inner, const uint32_t* a, int64_t lda,
                         const uint32_t* b, int64_t b_row, int64_t b_beside, float* c, int64_t ldc, bool accumulate) {
  if (rows == 2 * kTileRows && inner == 2 * kTileOperands && !accumulate) {
    return tile_product_short(vectors, a, lda, b, b_row, b_beside, c, ldc);
  }
  constexpr int64_t kBytes = sizeof(uint32_t);
  const auto pass = [&](int64_t steps, int64_t operands) {
    for (int64_t row = 0; row < rows; row += 2 * kTileRows) {
      const int64_t upper = std::min(kTileRows, rows - row), lower = std::min(kTileRows, rows - row - upper);
      TileSession::use(upper, lower > 0 ? lower : kTileRows, operands);
      const auto block = [&]<int MT, int NT>(int64_t vector) {
        tile_block<MT, NT>(steps, a + row * lda, lda * kBytes, b + vector * b_beside, b_row * kBytes,
                           kTileOperands * b_row, b_beside, c + row * ldc + vector * 16, ldc, accumulate);
      };
      int64_t vector = 0;
      for (; vector + 2 <= vectors; vector += 2) {
        lower > 0 ? block.template operator()<2, 2>(vector) : block.template operator()<1, 2>(vector);
      }
      if (vector < vectors)
        lower > 0 ? block.template operator()<2, 1>(vector) : block.template operator()<1, 1>(vector);
    }
  };
  const int64_t steps = inner / kTileOperands, rest = inner % kTileOperands;
  if (steps > 0 || rest == 0) pass(steps, kTileOperands);
  if (rest > 0) {
    a += steps * kTileOperands;
    b += steps * kTileOperands * b_row;
    accumulate = accumulate || steps > 0;
    pass(1, rest);
  }
}

// The same with element (row, pair) of A at pair * lda + row: brought into rows first, a part at a time.
inline void tile_product_columns(int64_t rows, int64_t vectors, int64_t inner, const uint32_t* a, int64_t lda,
                                 const uint32_t* b, int64_t b_row, int64_t b_beside, float* c, int64_t ldc,
                                 bool accumulate) {
  constexpr int64_t kRows = 2 * kTileRows, kPart = 4 * kTileOperands;
  alignas(64) uint32_t part[kRows * kPart];
  for (int64_t row = 0; row < rows; row += kRows) {
    const int64_t height = std::min(kRows, rows - row);
    for (int64_t first = 0; first < inner; first += kPart) {
      const int64_t operands = std::min(kPart, inner - first);
      for (int64_t r = 0; r < height; r += kTileRows) {
        const __mmask16 lanes = static_cast<__mmask16>((1u << std::min(kTileRows, height - r)) - 1);
        for (int64_t k = 0; k < operands; k += kTileOperands) {
          Vec<uint32_t> block[kTileRows];
          const uint32_t* from = a + (first + k) * lda + row + r;
#pragma GCC unroll 16
          for (int64_t i = 0; i < kTileRows; ++i) {
            block[i] =
                k + i < operands ? (Vec<uint32_t>)_mm512_maskz_loadu_epi32(lanes, from + i * lda) : Vec<uint32_t>{};
          }
          transpose_stage<uint32_t, 1>(block);
#pragma GCC unroll 16
          for (int64_t i = 0; i < kTileRows; ++i) store(part + (r + i) * kPart + k, block[i]);
        }
      }
      tile_product(height, vectors, operands, part, kPart, b + first * b_row, b_row, b_beside, c + row * ldc, ldc,
                   accumulate || first > 0);
    }
  }
}

#else

struct TileSession {};

#endif

}  // namespace
}  // namespace seo_kernels::cpu
