// The loss kernels that one instruction set offers.
#pragma once

#include "params/loss_params.h"

namespace seo_kernels::cpu {

// Ranges are of rows; for Huber's loss of blocks, numbered row by row.
struct LossKernels {
  void (*class_forward)(const ClassLossForwardParams&, int64_t begin, int64_t end);
  void (*class_backward)(const ClassLossBackwardParams&, int64_t begin, int64_t end);
  void (*soft_forward)(const SoftLossForwardParams&, int64_t begin, int64_t end);
  void (*soft_backward)(const SoftLossBackwardParams&, int64_t begin, int64_t end);
  void (*huber_forward)(const HuberForwardParams&, int64_t begin, int64_t end);
  void (*huber_backward)(const HuberBackwardParams&, int64_t begin, int64_t end);
};

}  // namespace seo_kernels::cpu
