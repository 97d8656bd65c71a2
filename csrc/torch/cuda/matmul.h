// Matrix products by torch's own (cuBLAS), into memory that is there.
#pragma once

#include <array>

#include "torch/tensors.h"

namespace seo_kernels {

// Nothing in an op is recorded: torch's products refuse to write where autograd looks on.
class WithoutAutograd {
 public:
  WithoutAutograd() : before_(aoti_torch_grad_mode_is_enabled()) { aoti_torch_grad_mode_set_enabled(false); }
  ~WithoutAutograd() { aoti_torch_grad_mode_set_enabled(before_); }
  WithoutAutograd(const WithoutAutograd&) = delete;
  WithoutAutograd& operator=(const WithoutAutograd&) = delete;

 private:
  bool before_;
};

// Calls an op of torch that writes its result to its last argument, which it returns. Such ops are left alone by
// autocast, which would round what is asked for in float32.
template <size_t N>
void call_into(const char* op, const char* overload, std::array<StableIValue, N> stack) {
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(op, overload, stack.data(), TORCH_ABI_VERSION));
  torch::stable::detail::to<Tensor>(stack[0]);  // ours to release
}

inline Tensor transposed(const Tensor& matrix) { return torch::stable::transpose(matrix, 0, 1); }

// (..., n) as (rows, n)
inline Tensor as_matrix(const Tensor& tensor) {
  if (tensor.dim() == 2) return tensor;
  int64_t rows = 1;
  for (int64_t n = 0; n + 1 < tensor.dim(); ++n) rows *= tensor.size(n);
  const int64_t sizes[] = {rows, tensor.size(tensor.dim() - 1)};
  return torch::stable::reshape(tensor, {sizes, 2});
}

// out = a b + term, all of one dtype; the term may be a row, or out itself
inline void multiply_alike(const Tensor& a, const Tensor& b, const OptionalTensor& term, const Tensor& out) {
  using torch::stable::detail::from;
  if (!term) return call_into<3>("aten::mm", "out", {from(a), from(b), from(out)});
  // not addmm, whose numbers the stable ABI cannot pass; this calls it
  call_into<4>("aten::linear", "out", {from(a), from(transposed(b)), from(term), from(out)});
}

// out = a b + term; without a term, out may be float32 where a and b are of half precision. The accumulation is in
// float32 (float64) anyway.
inline void multiply(const Tensor& a, const Tensor& b, const Tensor& out, const OptionalTensor& term = {}) {
  if (out.numel() == 0) return;
#if defined(SK_HOST_EXECUTOR)
  // The CPU has no products of mixed dtypes, and its products of half precision are not what is to be proved.
  if (a.scalar_type() == ScalarType::BFloat16 || a.scalar_type() == ScalarType::Half) {
    const auto wide = [](const Tensor& tensor) { return torch::stable::to(tensor, ScalarType::Float); };
    if (out.scalar_type() == ScalarType::Float) return multiply_alike(wide(a), wide(b), {}, out);
    Tensor sums = wide(out), narrow = out;
    multiply_alike(wide(a), wide(b), term ? wide(*term) : term, sums);
    torch::stable::copy_(narrow, sums);
    return;
  }
#else
  if (a.scalar_type() != out.scalar_type()) {
    using torch::stable::detail::from;
    return call_into<4>("aten::mm", "dtype_out", {from(a), from(b), from(out.scalar_type()), from(out)});
  }
#endif
  multiply_alike(a, b, term, out);
}

}  // namespace seo_kernels
