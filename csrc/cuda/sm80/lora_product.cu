// The gradient of lora_linear's input under dropout: the adapter's term comes first and is dropped in registers, then
// the base's is added to it there.
#include "cuda/sm80/drop_sums.h"
#include "cuda/sm80/lora.h"
#include "cuda/sm80/matmul_store.h"

namespace seo_kernels::cuda::sm80 {

void lora_dropped_product(const MatmulParams& p, const Dropout& dropout, const MatrixView& out, Stream stream) {
  const MatmulOut to(out);
  launch_matmul<LeftLayouts::kRows>(
      p, [&](auto stored) { return StoreProduct<decltype(stored)>{to}; }, stream, "lora_linear: input gradient",
      DropSums{dropout});
}

}  // namespace seo_kernels::cuda::sm80
