// Matrix products whose results are written as they are.
#include "cuda/sm80/linear.h"
#include "cuda/sm80/matmul_store.h"

namespace seo_kernels::cuda::sm80 {

int64_t matmul_shared_bytes() { return kMatmulBytes<>; }

void matmul(const MatmulParams& p, const MatrixView& out, Stream stream) {
  if (p.rows == 0 || p.columns == 0) return;
  const MatmulOut to(out);
  launch_matmul(p, [&](auto stored) { return StoreProduct<decltype(stored)>{to}; }, stream, "matmul");
}

}  // namespace seo_kernels::cuda::sm80
