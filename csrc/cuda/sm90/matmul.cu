// Matrix products on warpgroups whose results are written as they are.
#include "cuda/device_limits.h"
#include "cuda/sm80/matmul_store.h"
#include "cuda/sm90/linear.h"
#include "cuda/sm90/matmul.h"

namespace seo_kernels::cuda::sm90 {

int64_t resident_blocks() { return multiprocessors(); }

int64_t matmul_shared_bytes() { return sizeof(MatmulWgmma<BFloat16, false, false, StoreProduct<BFloat16>>::Shared); }

std::string refusal_of_operands(const MatmulParams& p) { return matmul_refusal(p); }

void matmul(const MatmulParams& p, const MatrixView& out, Stream stream) {
  const MatmulOut to(out);
  launch_on_warpgroups<LeftLayouts::kBoth>(
      p, [&](auto stored) { return StoreProduct<decltype(stored)>{to}; }, stream, "matmul");
}

}  // namespace seo_kernels::cuda::sm90
