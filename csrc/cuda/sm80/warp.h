// What the threads of a warp do together: products of small matrices on tensor cores, reads of their operands from
// shared memory, and copies into it that run beside the arithmetic. A warp's threads hold a matrix in parts, as PTX
// lays them out ("Matrix fragments for mma.m16n8k16"): with g = lane / 4 and t = lane % 4,
//
//   Product   16 x 8:   at[0], at[1]: row g, columns 2t, 2t + 1;  at[2], at[3]: row g + 8
//   Left      16 x 16:  at[0]: row g, columns 2t, 2t + 1;  at[1]: row g + 8;  at[2], at[3]: the same, 8 columns on
//   Right     16 x 8:   at[0]: rows 2t, 2t + 1 of column g;  at[1]: 8 rows on
//
// In device_warp.h and host_warp.h, functions that all threads of a block call:
//
//   read_matrices<Turned>(block, memory, to, from)  four 8 x 8 matrices; from(thread) is the entry where row thread % 8
//                                                   of matrix lane / 8 begins; to(thread) gets of matrix m the columns
//                                                   2t, 2t + 1 of row g in at[m]; turned: rows 2t, 2t + 1 of column g
//   multiply<S>(block, to, left, right)             Product += Left . Right, added up in float32
//   begin_copy(memory, n, from, there)              inside for_threads: 16 bytes, zeros where they are not there
//   commit_copies(block)                            those begun since the last time are a group
//   wait_for_copies<N>(block)                       for all but the last N groups; a barrier makes them all threads'
#pragma once

#include "cuda/element.h"

namespace seo_kernels::cuda {

constexpr int kWarp = 32;

struct Product {
  float at[4];
};
// Left, or two Rights side by side.
struct Fragment {
  uint32_t at[4];
};

// Where a thread's part of a warp's matrices begins.
struct Lane {
  int row, column;
  SK_DEVICE explicit Lane(int thread) : row(thread % kWarp / 4), column(thread % 4 * 2) {}
};

// Rows of `Width` entries of 2 bytes whose pieces of 16 bytes lie in another order in each of eight rows, so that a
// column of pieces lies in different banks.
template <int Width>
SK_DEVICE constexpr int swizzled(int row, int column) {
  static_assert(Width % 64 == 0);
  return row * Width + ((column / 8) ^ (row % 8)) * 8 + column % 8;
}

}  // namespace seo_kernels::cuda

#if defined(__CUDACC__)
#include "cuda/sm80/device_warp.h"
#else
#include "cuda/sm80/host_warp.h"
#endif
