// The tier of compute capability 9.0 alone: linear_cross_entropy by warpgroups, where the copy engine can bring
// operands.
#pragma once

#include "cuda/sm80/linear_cross_entropy.h"

namespace seo_kernels::cuda::sm90 {

// As those of sm80.
void linear_cross_entropy_forward(const ClassLossForwardParams& p, const sm80::ClassScores& scores,
                                  const sm80::ScoreSlots& slots, Stream stream);
void score_gradients(const sm80::ScoreGradientsParams& p, Stream stream);
void add_product(const sm80::AddProductParams& p, Stream stream);

}  // namespace seo_kernels::cuda::sm90
