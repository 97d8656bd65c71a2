// An activation and its derivatives at a number, as kernels compute them.
#pragma once

#include "cuda/executor.h"
#include "semantics/activation.h"

namespace seo_kernels::cuda {

// Out of line on the host, where it is compiled once per activation and not once per kernel.
template <Activation Which, class Acc>
SK_OUTLINED_ON_HOST Jet<Acc> jet_at(Acc x, Acc negative_slope) {
  return jet<Which, ScalarArithmetic<Acc>>(x, negative_slope);
}

}  // namespace seo_kernels::cuda
