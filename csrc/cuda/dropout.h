// What the device kernel of dropout is told. Same op as cpu/dropout_params.h.
#pragma once

#include "cuda/element.h"
#include "params/strided_pair.h"

namespace seo_kernels::cuda {

// out = factor * input where semantics/dropout.h keeps an element, 0 elsewhere
struct DropoutParams {
  StridedPair pair;  // input, out
  const void* input;
  void* out;
  DType dtype;
  const int64_t* seed;  // on the device
  uint32_t threshold;
  double factor;
};

void dropout(const DropoutParams& p, Stream stream);

}  // namespace seo_kernels::cuda
