// Matrix products whose results are written as they are.
#include "cuda/sm80/linear.h"
#include "cuda/sm80/matmul_store.h"

namespace seo_kernels::cuda::sm80 {

int64_t matmul_shared_bytes() { return sizeof(Matmul<BFloat16, false, false, StoreProduct<BFloat16>>::Shared); }

void matmul(const MatmulParams& p, const MatrixView& out, Stream stream) {
  const MatmulOut to(out);
  launch_matmul<LeftLayouts::kBoth>(
      p, [&](auto stored) { return StoreProduct<decltype(stored)>{to}; }, stream, "matmul");
}

}  // namespace seo_kernels::cuda::sm80
