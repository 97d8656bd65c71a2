// How the threads of a block share a tile of 64 x 64 numbers, or of 64 x `Width`: 16 x 16 threads with 4 x 4 neighbours
// each. Larger parts would read less shared memory, but hold too many registers where heads are wide.
#pragma once

#include <cmath>
#include <limits>

#include "cuda/attention.h"
#include "cuda/element.h"

namespace seo_kernels::cuda {

constexpr int kAcross = 16;     // threads side by side
constexpr int kColumns = 4;     // neighbouring columns of a thread
constexpr int kLd = kTile + 4;  // of a tile in shared memory: rows begin in different banks, at multiples of 16 bytes

constexpr int kTileThreads = 256;
constexpr int kRows = kTile * kAcross / kTileThreads;  // neighbouring rows of a thread
static_assert(kAcross * kColumns == kTile);

// Blocks that are to fit a multiprocessor at once, where a thread holds this many bytes of sums.
constexpr int blocks_for(int bytes) { return bytes <= 64 ? 2 : 1; }

// A thread's part of a 64 x 64 tile.
template <class Acc>
struct MicroTile {
  Acc at[kRows][kColumns];
};

// A thread's part of 64 x Width sums: column n * 64 + its own.
template <class Acc, int Width>
struct Sums {
  static constexpr int kBlocks = Width / kTile;
  Acc at[kBlocks][kRows][kColumns];
};

template <class Acc>
struct RowValues {
  Acc at[kRows];
};

// Where a thread's part begins.
struct Place {
  int row, column;
  SK_DEVICE explicit Place(int thread) : row(thread / kAcross * kRows), column(thread % kAcross * kColumns) {}
};

template <class Acc>
constexpr Acc kHidden = -std::numeric_limits<Acc>::infinity();
constexpr double kLog2E = 1.4426950408889634074, kLn2 = 0.69314718055994530942;

#if defined(__CUDA_ARCH__)
// One instruction; weights below 2^-126 are zeros.
SK_DEVICE inline float exp2_of(float x) {
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
  return power;
}
#else
SK_DEVICE inline float exp2_of(float x) { return exp2f(x); }
#endif
SK_DEVICE inline double exp2_of(double x) { return exp2(x); }
SK_DEVICE inline float log2_of(float x) { return log2f(x); }
SK_DEVICE inline double log2_of(double x) { return log2(x); }
SK_DEVICE inline float tanh_of(float x) { return tanhf(x); }
SK_DEVICE inline double tanh_of(double x) { return tanh(x); }

SK_DEVICE inline float larger(float a, float b) { return fmaxf(a, b); }
SK_DEVICE inline double larger(double a, double b) { return fmax(a, b); }

// Sums of a row over the threads that share it.
template <class Acc, class Block>
SK_DEVICE void add_across(Block& block, PerThread<RowValues<Acc>>& values) {
  block.template combine<kAcross>(values, [](const RowValues<Acc>& a, const RowValues<Acc>& b) {
    RowValues<Acc> sum;
#pragma unroll
    for (int r = 0; r < kRows; ++r) sum.at[r] = a.at[r] + b.at[r];
    return sum;
  });
}

// Calls f(r) for the thread's rows: unrolled, or, where f is large, in a loop that turns the named arrays so that the
// row at hand is their first. f gets r and where it lies in the arrays.
template <bool Unrolled, class Acc, class F, class... Tiles>
SK_DEVICE inline void for_rows(F f, Tiles&... tiles) {
  if constexpr (Unrolled) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) f(r, r);
  } else {
#pragma unroll 1
    for (int r = 0; r < kRows; ++r) {
      f(r, 0);
      const auto turn = [](auto& tile) {
#pragma unroll
        for (int c = 0; c < kColumns; ++c) {
          const Acc first = tile.at[0][c];
#pragma unroll
          for (int n = 0; n + 1 < kRows; ++n) tile.at[n][c] = tile.at[n + 1][c];
          tile.at[kRows - 1][c] = first;
        }
      };
      (turn(tiles), ...);
    }
  }
}

}  // namespace seo_kernels::cuda
