// The device kernels of the losses; what they are told is in params/loss_params.h.
#pragma once

#include "cuda/executor.h"
#include "params/loss_params.h"

namespace seo_kernels::cuda {

// Cross entropy and focal loss. A target that is no class is not followed: it gives NaN. `bias`: acc (classes), added
// to the scores, or null.
void class_loss_forward(const ClassLossForwardParams& p, const void* bias, Stream stream);

// The columns of the input are the classes from `first_class` on. Their gradient goes to `grad_input`, of the input's
// shape, which may be the input itself; p.grad_input is not looked at.
struct ClassLossPart {
  const void* bias;
  int64_t first_class;
  MatrixView grad_input;
};
void class_loss_backward(const ClassLossBackwardParams& p, const ClassLossPart& part, Stream stream);

void soft_loss_forward(const SoftLossForwardParams& p, Stream stream);
void soft_loss_backward(const SoftLossBackwardParams& p, Stream stream);

void huber_forward(const HuberForwardParams& p, Stream stream);
void huber_backward(const HuberBackwardParams& p, Stream stream);

}  // namespace seo_kernels::cuda
