#include "cpu/isa/attention/forward.h"

#include "cpu/isa/entry.h"

namespace seo_kernels::cpu {

void attention_forward(const AttentionForwardParams& p, UnitRange units) {
  with_engine(p.dtype, [&](auto engine) { ForwardTile<decltype(engine)>(p).run(units); });
}

}  // namespace seo_kernels::cpu
