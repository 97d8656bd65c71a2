// All that one instruction set's plugin offers: a table of functions per family of ops.
#pragma once

#include "cpu/activation_params.h"
#include "cpu/attention_params.h"
#include "cpu/dropout_params.h"
#include "cpu/linear_cross_entropy_params.h"
#include "cpu/linear_params.h"
#include "cpu/loss_kernels.h"

namespace seo_kernels::cpu {

struct Kernels {
  const char* capability;
  double (*fma_peak)(DType dtype, int64_t milliseconds);  // GFLOP/s of the calling thread; 0: no such instruction
  AttentionKernels attention;
  LinearKernels linear;
  ActivationKernels activation;
  LossKernels loss;
  LinearCrossEntropyKernels linear_cross_entropy;
  DropoutKernels dropout;
};

}  // namespace seo_kernels::cpu
