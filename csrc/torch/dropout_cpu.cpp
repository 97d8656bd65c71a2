// dropout on the CPU: checks, allocation, division of the elements among threads, registration.
#include "cpu/kernels.h"
#include "semantics/dropout.h"
#include "torch/dropout_arguments.h"
#include "torch/new_tensor.h"
#include "torch/slots.h"

namespace seo_kernels {
namespace {

Tensor dropout(Tensor input, Tensor seed, double p) {
  check_dropout(input, seed, p);
  Tensor out = input.is_contiguous() ? make_tensor(input, shape_of(input), input.scalar_type())
                                     : torch::stable::empty_like(input);
  if (out.numel() == 0) return out;
  if (p == 1.0) return torch::stable::zero_(out);
  cpu::DropoutParams params{strided_pair(input, out), input.data_ptr(), out.data_ptr(), dtype_of(input, "input")};
  params.seed = static_cast<uint64_t>(*static_cast<const int64_t*>(seed.data_ptr()));
  params.p = p;
  const int64_t blocks = (out.numel() + kDropoutBlock - 1) / kDropoutBlock;
  over_items(blocks, kDropoutBlock,
             [&](int64_t begin, int64_t end) { cpu::kernels().dropout.dropout(params, {begin, end}); });
  return out;
}

}  // namespace
}  // namespace seo_kernels

STABLE_TORCH_LIBRARY_IMPL(seo_kernels, CPU, m) { m.impl("dropout", TORCH_BOX(&seo_kernels::dropout)); }
