// linear's forward: bias and activation in the product's epilogue.
#include "cuda/sm80/linear_epilogue.h"

namespace seo_kernels::cuda::sm80 {

void linear_forward(const LinearForwardParams& p, Stream stream) {
  launch_matmul<LeftLayouts::kRows>(
      p.product, [&](auto stored) { return linear_epilogue<decltype(stored)>(p); }, stream, "linear_forward");
}

}  // namespace seo_kernels::cuda::sm80
