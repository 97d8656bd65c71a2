// begin_copy of warp.h, where it is wanted: a predicate of the instruction rather than a branch.
#pragma once

#include "cuda/sm80/warp.h"

namespace seo_kernels::cuda {

// 16 bytes from entry `offset` of `data`, zeros where they are not there: then nothing is read.
template <class Memory, class S>
SK_DEVICE inline void begin_copy_if(bool wanted, Memory& memory, int n, const S* data, int64_t offset, bool there) {
#if defined(__CUDACC__)
  const uint32_t to = cute::cast_smem_ptr_to_uint(memory.address(n));
  asm volatile(
      "{\n"
      "  .reg .pred wanted;\n"
      "  setp.ne.b32 wanted, %0, 0;\n"
      "  @wanted cp.async.cg.shared.global [%1], [%2], 16, %3;\n"
      "}\n" ::"r"(static_cast<int>(wanted)),
      "r"(to), "l"(data + offset), "r"(there ? 16 : 0));
#else
  if (wanted) begin_copy(memory, n, there ? data + offset : data, there);
#endif
}

}  // namespace seo_kernels::cuda
