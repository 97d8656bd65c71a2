// Dropout of the sums of a product's first term, in registers, before the second is added.
#pragma once

#include "cuda/low_rank.h"
#include "cuda/sm80/matmul.h"

namespace seo_kernels::cuda {

struct DropSums {
  Dropout dropout;

  template <class Block, class Grid>
  SK_DEVICE void operator()(Block& block, PerThread<typename Grid::Sums>& sums, const Placement<Grid>& place) const {
    const uint64_t seed = seed_of(dropout);
#pragma unroll
    for (int m = 0; m < Grid::kM; ++m) {
      static_assert(4 * Grid::kN <= 32);
      PerThread<uint32_t> kept;  // bit 4 n + e: entry e of product n
      block.for_threads([&](int thread) { kept[thread] = 0; });
#pragma unroll 2
      for (int n = Grid::kN - 1; n >= 0; --n) {
        // four rows of a column draw together, and are four threads': those draw for each other
        PerThread<uint32_t> drawn;
        block.for_threads([&](int thread) {
          const int turn = Lane(thread).row % 4;
          const int row = place.row(thread, m, turn / 2), column = place.column(thread, n, turn % 2);
          drawn[thread] = kept_bits<1>(dropout, seed, row / kWordRows, column) << (4 * turn);
        });
        block.template combine<4, 4>(drawn, [](uint32_t x, uint32_t y) { return x | y; });
        block.for_threads([&](int thread) {
          const uint32_t mine = drawn[thread] >> (Lane(thread).row % 4);
          const uint32_t four = (mine & 1) | (mine >> 3 & 2) | (mine >> 6 & 4) | (mine >> 9 & 8);
          kept[thread] = kept[thread] << 4 | four;
        });
      }
      block.for_threads([&](int thread) {
#pragma unroll
        for (int n = 0; n < Grid::kN; ++n) {
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            if (!(kept[thread] >> (4 * n + e) & 1)) sums[thread].at[m][n].at[e] = 0;
          }
        }
      });
    }
  }
};

}  // namespace seo_kernels::cuda
