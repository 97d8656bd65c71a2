// What the kernel of dropout is told: plain pointers and sizes. No tensors here.
#pragma once

#include "params/matrix_view.h"
#include "params/strided_pair.h"

namespace seo_kernels::cpu {

// out = input / (1 - p) where semantics/dropout.h keeps an element, 0 elsewhere
struct DropoutParams {
  StridedPair pair;  // input, out
  const void* input = nullptr;
  void* out = nullptr;
  DType dtype = DType::kFloat32;
  uint64_t seed = 0;
  double p = 0.0;  // in (0, 1)
};

struct DropoutKernels {
  // The blocks of elements that semantics/dropout.h knows.
  void (*dropout)(const DropoutParams&, Range blocks);
};

}  // namespace seo_kernels::cpu
