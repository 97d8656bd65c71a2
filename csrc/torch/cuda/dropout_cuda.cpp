// dropout on the GPU: checks, allocation, launch, registration.
#include "cuda/dropout.h"
#include "semantics/philox.h"
#include "torch/cuda/device.h"
#include "torch/dropout_arguments.h"

namespace seo_kernels {
namespace {

Tensor dropout(Tensor input, Tensor seed, double p) {
  check_dropout(input, seed, p);
  const DeviceScope device(input);
  Tensor out = torch::stable::empty_like(input);
  if (out.numel() == 0) return out;
  if (p == 1.0) return torch::stable::zero_(out);
  const cuda::DropoutParams params{strided_pair(input, out),
                                   input.data_ptr(),
                                   out.data_ptr(),
                                   dtype_of(input, "input"),
                                   static_cast<const int64_t*>(seed.data_ptr()),
                                   dropout_threshold(p),
                                   1.0 / (1.0 - p)};
  cuda::dropout(params, device.stream);
  return out;
}

}  // namespace
}  // namespace seo_kernels

STABLE_TORCH_LIBRARY_IMPL(seo_kernels, SK_DISPATCH_KEY, m) { m.impl("dropout", TORCH_BOX(&seo_kernels::dropout)); }
