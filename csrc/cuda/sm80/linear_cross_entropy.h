// The tier of compute capability 8.0: linear_cross_entropy in 16 bits on tensor cores, sums in float32. Scores are
// products' sums in registers: forward keeps a row's statistics of them, backward their gradient for a block of
// classes.
#pragma once

#include "cuda/sm80/matmul_params.h"
#include "params/loss_params.h"

namespace seo_kernels::cuda::sm80 {

// scores (tokens, classes) = hidden weight^T + bias
struct ClassScores {
  MatrixView hidden, weight;  // the former in rows
  const float* bias;          // (classes) or null
};

// A block has some tokens and one of the slots, a run of classes; statistics of the slots are combined in order.
struct ScoreSlots {
  int64_t count;
  float* sums;           // (count, tokens, 4), any contents
  float* target_scores;  // (tokens), any contents
};
// Enough slots for a GPU to be busy; not of the device: sums would be.
int64_t score_slots(int64_t tokens, int64_t classes);
// Of a block, of any of these kernels.
int64_t linear_cross_entropy_shared_bytes();

// The rest of the parameters is as in class_loss_forward; there is no input.
void linear_cross_entropy_forward(const ClassLossForwardParams& p, const ClassScores& scores, const ScoreSlots& slots,
                                  Stream stream);
// Its end: from the slots' statistics to losses.
void combine_slots(const ClassLossForwardParams& p, const ScoreSlots& slots, Stream stream);

// The gradient of the scores of classes from `first` on, of which `scores` are: to rows of 16 bits. Columns past the
// classes are zeros.
struct ScoreGradientsParams {
  ClassLossBackwardParams loss;
  ClassScores scores;
  int64_t first;
  MatrixView gradients;
};
void score_gradients(const ScoreGradientsParams& p, Stream stream);

// sums = the product, or, where it does not begin, sums + the product; where there is `out`, that gets them, narrowed.
struct AddProductParams {
  MatmulParams product;
  float* sums;     // (rows, stride), stride a multiple of 8
  int64_t stride;  //
  bool begins;
  MatrixView out;  // neighbouring columns side by side, or absent
};
void add_product(const AddProductParams& p, Stream stream);

}  // namespace seo_kernels::cuda::sm80
