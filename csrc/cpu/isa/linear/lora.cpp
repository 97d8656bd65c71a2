#include "cpu/isa/entry.h"
#include "cpu/isa/linear/lora_backward.h"
#include "cpu/isa/linear/lora_forward.h"

namespace seo_kernels::cpu {

void linear_lora_forward(const LoraForwardParams& p, const MatmulShare& share) {
  with_engine(p.dtype, [&](auto engine) { LoraForward<decltype(engine)>(p, share).run(); });
}

void linear_lora_backward(const LoraBackwardParams& p, const MatmulShare& share) {
  with_engine(p.dtype, [&](auto engine) { LoraBackward<decltype(engine)>(p, share).run(); });
}

}  // namespace seo_kernels::cpu
