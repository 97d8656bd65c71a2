// linear's forward on warpgroups: bias and activation in the product's epilogue.
#include "cuda/sm80/linear_epilogue.h"
#include "cuda/sm90/linear.h"
#include "cuda/sm90/matmul.h"

namespace seo_kernels::cuda::sm90 {

void linear_forward(const sm80::LinearForwardParams& p, Stream stream) {
  launch_on_warpgroups<LeftLayouts::kRows>(
      p.product, [&](auto stored) { return linear_epilogue<decltype(stored)>(p); }, stream, "linear_forward");
}

}  // namespace seo_kernels::cuda::sm90
