// Epilogues of linear_cross_entropy's backward: scores become their gradients; the hidden states' gradients are added
// up over blocks of classes.
#pragma once

#include "cuda/log_sum_exp.h"
#include "cuda/sm80/linear_cross_entropy.h"
#include "cuda/sm80/matmul_store.h"

namespace seo_kernels::cuda {

// Scores become their gradient:  (of_softmax) p_c - (of_each) - (of_target) [c = target]
template <class S>
struct ScoreGradient {
  struct Shared {};
  ClassLossBackwardParams p;
  const float* bias;
  int first, count;  // classes
  MatmulOut out;

  template <class Block, class Grid, class Memory>
  SK_DEVICE void operator()(Block& block, PerThread<typename Grid::Sums>& scores, const Placement<Grid>& place,
                            Memory& memory, Shared&) const {
    if (bias) add_to_columns(block, scores, place, bias, count);
    block.for_threads([&](int thread) {
#pragma unroll
      for (int m = 0; m < Grid::kM; ++m) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const int row = place.row(thread, m, h);
          if (row >= out.rows) continue;
          const Coefficients by(p, row);
          const int64_t at = p.target[row] - first;
#pragma unroll
          for (int n = 0; n < Grid::kN; ++n) {
#pragma unroll
            for (int c = 0; c < 2; ++c) {
              float& x = scores[thread].at[m][n].at[2 * h + c];
              const int column = place.column(thread, n, c);
              const float gradient = by.of_softmax * by.lse.probability(x) - by.of_each;
              x = by.ignored || column >= count ? 0.0f : gradient - (column == at ? by.of_target : 0.0f);
            }
          }
        }
      }
    });
    narrow_tile<S>(block, scores, place, memory, out.rows, out.columns,
                   [&](int row, int column, const Pack<S, 8>& pack) { out.put(row, column, pack); });
  }

 private:
  struct Coefficients {
    bool ignored;
    Normaliser<float> lse;
    float of_softmax, of_target, of_each;

    SK_DEVICE Coefficients(const ClassLossBackwardParams& p, int row)
        : ignored(p.target[row] == p.ignore_index), lse(normaliser_at<float>(p.lse, row)) {
      const bool known = p.target[row] >= 0 && p.target[row] < p.classes;
      const float gradient = known ? static_cast<const float*>(p.grad_losses)[row] : NAN;
      const float smoothing = static_cast<float>(p.label_smoothing);
      of_target = gradient * (1 - smoothing);
      of_softmax = gradient;
      of_each = gradient * smoothing / static_cast<float>(p.classes);
    }
  };
};

template <class S>
struct AddProduct {
  struct Shared {};
  float* sums;
  int64_t stride;
  bool begins;
  int rows, columns;
  MatmulOut out;

  struct alignas(8) Two {
    float at[2];
  };

  template <class Block, class Grid, class Memory>
  SK_DEVICE void operator()(Block& block, PerThread<typename Grid::Sums>& product, const Placement<Grid>& place,
                            Memory& memory, Shared&) const {
    block.for_threads([&](int thread) {
#pragma unroll
      for (int m = 0; m < Grid::kM; ++m) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const int row = place.row(thread, m, h);
          if (row >= rows) continue;
#pragma unroll
          for (int n = 0; n < Grid::kN; ++n) {
            const int column = place.column(thread, n, 0);
            if (column >= columns) continue;
            float* x = product[thread].at[m][n].at + 2 * h;
            Two* at = reinterpret_cast<Two*>(sums + row * stride + column);
            Two two{{x[0], x[1]}};
            if (!begins) {
              const Two before = *at;
              two = {{before.at[0] + x[0], before.at[1] + x[1]}};
            }
            x[0] = two.at[0];
            x[1] = two.at[1];
            if (!out) *at = two;
          }
        }
      }
    });
    if (!out) return;
    narrow_tile<S>(block, product, place, memory, rows, columns,
                   [&](int row, int column, const Pack<S, 8>& pack) { out.put(row, column, pack); });
  }
};

template <class S>
ScoreGradient<S> score_gradient(const sm80::ScoreGradientsParams& p) {
  return {p.loss, p.scores.bias, static_cast<int>(p.first), static_cast<int>(p.scores.weight.rows),
          MatmulOut(p.gradients)};
}

template <class S>
AddProduct<S> add_to_sums(const sm80::AddProductParams& p) {
  return {p.sums, p.stride, p.begins, p.product.rows, p.product.columns, MatmulOut(p.out)};
}

}  // namespace seo_kernels::cuda
