// What a thread sees of a row's scores, where they are a product's sums.
#pragma once

#include "cuda/log_sum_exp.h"
#include "cuda/sm80/matmul.h"

namespace seo_kernels::cuda {

using Seen = ScoreSums<float>;  // of a token's scores; 16 bytes in memory

SK_DEVICE inline Pack<float, 4> as_pack(const Seen& seen) {
  return {{seen.largest, seen.sum, seen.factors, seen.weighted}};
}
SK_DEVICE inline Seen as_seen(const Pack<float, 4>& pack) { return {pack.at[0], pack.at[1], pack.at[2], pack.at[3]}; }

// A thread's scores of one row, of which the target's is kept. Their sum is relative to the largest, as ScoreSums says.
template <class Grid>
SK_DEVICE inline Seen see_row(const Placement<Grid>& place, int thread, int m, int h, const typename Grid::Sums& scores,
                              int rows, int columns, const int64_t* target, float* target_scores) {
  const int row = place.row(thread, m, h);
  const int64_t wanted = row < rows ? target[row] : -1;
  Seen seen;
#pragma unroll
  for (int n = 0; n < Grid::kN; ++n) {
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      const float x = scores.at[m][n].at[2 * h + c];
      const int column = place.column(thread, n, c);
      if (column < columns && x > seen.largest) seen.largest = x;
      if (column < columns && column == wanted) target_scores[row] = x;
    }
  }
  const float shift = seen.largest == -INFINITY ? 0.0f : seen.largest;
#pragma unroll
  for (int n = 0; n < Grid::kN; ++n) {
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      if (place.column(thread, n, c) >= columns) continue;
      const float x = scores.at[m][n].at[2 * h + c] - shift;
      seen.sum += exponential(x);
      seen.factors += 1.0f;
      seen.weighted += x;
    }
  }
  return seen;
}

}  // namespace seo_kernels::cuda
