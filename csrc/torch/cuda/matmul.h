// Matrix products by torch's own (cuBLAS), into memory that is there.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include <array>

#include "torch/tensors.h"

namespace seo_kernels {

// Nothing in an op is recorded: torch's products refuse to write where autograd looks on.
class NoRecording {
 public:
  NoRecording() : before_(aoti_torch_grad_mode_is_enabled()) { aoti_torch_grad_mode_set_enabled(false); }
  ~NoRecording() { aoti_torch_grad_mode_set_enabled(before_); }
  NoRecording(const NoRecording&) = delete;
  NoRecording& operator=(const NoRecording&) = delete;

 private:
  bool before_;
};

// The overloads that write to their last argument: autocast, which would round what is asked for in float32, leaves
// them alone.
template <class... Arguments>
void mm_into(const char* overload, const Arguments&... arguments) {
  const NoRecording guard;
  std::array<StableIValue, sizeof...(Arguments)> stack{torch::stable::detail::from(arguments)...};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::mm", overload, stack.data(), TORCH_ABI_VERSION));
  torch::stable::detail::to<Tensor>(stack[0]);  // the result once more, ours to release
}

// out = a b; out may be float32 where a and b are of half precision. The accumulation is in float32 (float64) anyway.
inline void matmul_into(const Tensor& a, const Tensor& b, const Tensor& out) {
  const bool half = a.scalar_type() == ScalarType::BFloat16 || a.scalar_type() == ScalarType::Half;
  if (!half) return mm_into("out", a, b, out);
#if defined(SK_HOST_EXECUTOR)
  // The CPU has no product of mixed dtypes, and may round in its own of half precision.
  const bool wide = out.scalar_type() == ScalarType::Float;
  const Tensor product = wide ? out : torch::stable::to(out, ScalarType::Float);
  mm_into("out", torch::stable::to(a, ScalarType::Float), torch::stable::to(b, ScalarType::Float), product);
  Tensor to = out;
  if (!wide) torch::stable::copy_(to, product);
#else
  if (out.scalar_type() == a.scalar_type()) return mm_into("out", a, b, out);
  mm_into("dtype_out", a, b, out.scalar_type(), out);
#endif
}

}  // namespace seo_kernels
