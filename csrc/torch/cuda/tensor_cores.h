// Products on tensor cores: by warpgroups (sm90a) where that tier is asked for and can have the operands, otherwise by
// warps (sm80).
#pragma once

#include "cuda/sm90/linear.h"
#include "torch/cuda/tier.h"

namespace seo_kernels {

inline bool on_warpgroups(const cuda::MatmulParams& p) {
  const TierOffer offer{Tier::kSm90a, cuda::sm90::matmul_shared_bytes, cuda::sm90::refusal_of_operands(p)};
  return decide_tier(p.dtype, {offer}).tier == Tier::kSm90a;
}

inline void multiply_on_tensor_cores(const cuda::MatmulParams& p, const MatrixView& out, cuda::Stream stream) {
  on_warpgroups(p) ? cuda::sm90::matmul(p, out, stream) : cuda::sm80::matmul(p, out, stream);
}

inline void linear_on_tensor_cores(const cuda::sm80::LinearForwardParams& p, cuda::Stream stream) {
  on_warpgroups(p.product) ? cuda::sm90::linear_forward(p, stream) : cuda::sm80::linear_forward(p, stream);
}

}  // namespace seo_kernels
