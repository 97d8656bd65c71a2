// The gradient of lora_linear's input under dropout, on warpgroups.
#include "cuda/sm80/drop_sums.h"
#include "cuda/sm80/matmul_store.h"
#include "cuda/sm90/linear.h"
#include "cuda/sm90/matmul.h"

namespace seo_kernels::cuda::sm90 {

void lora_dropped_product(const MatmulParams& p, const Dropout& dropout, const MatrixView& out, Stream stream) {
  const MatmulOut to(out);
  launch_on_warpgroups<LeftLayouts::kRows>(
      p, [&](auto stored) { return StoreProduct<decltype(stored)>{to}; }, stream, "lora_linear: input gradient",
      DropSums{dropout});
}

}  // namespace seo_kernels::cuda::sm90
