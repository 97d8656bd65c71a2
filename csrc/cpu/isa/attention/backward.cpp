#include "cpu/isa/attention/backward.h"

#include "cpu/isa/entry.h"

namespace seo_kernels::cpu {
namespace {

// Sums the parts that slots left of heads [begin, end) of one gradient. part_of(slot, head): null where the slot did
// not work on the head, or did so alone.
template <class Acc>
void combine_heads(const AttentionBackwardParams& p, const TensorView& to, const void* partial, int64_t width,
                   const UnitRange* slots, int64_t slot_count, int64_t head_begin, int64_t head_end) {
  const int64_t per_head = p.group() * p.plan->tiles, size = p.key_length * width;
  Scratch<Acc> sum(size);
  for (int64_t head = head_begin; head < head_end; ++head) {
    const int64_t begin = head * per_head, end = begin + per_head;
    bool first = true;
    for (int64_t s = 0; s < slot_count; ++s) {
      const UnitRange slot = slots[s];
      if (slot.begin >= end || slot.end <= begin || slot.begin == slot.end) continue;
      if (slot.begin <= begin && slot.end >= end) break;  // one slot's alone: already written
      const Acc* part = static_cast<const Acc*>(partial) + (s * 2 + (slot.begin >= begin ? 0 : 1)) * size;
      if (first) {
        std::copy_n(part, size, sum.get());
      } else {
        for (int64_t n = 0; n < size; ++n) sum[n] += part[n];
      }
      first = false;
    }
    if (!first) {
      store_rows(to, head / p.key_heads, head % p.key_heads, 0, p.key_length, width, sum.get(), width);
    }
  }
}

}  // namespace

void attention_backward(const AttentionBackwardParams& p, UnitRange units, int64_t slot) {
  with_engine(p.dtype, [&](auto engine) { BackwardTile<decltype(engine)>(p, slot).run(units); });
}

void attention_combine(const AttentionBackwardParams& p, const UnitRange* slots, int64_t slot_count, int64_t head_begin,
                       int64_t head_end) {
  const auto combine = [&](auto zero) {
    using Acc = decltype(zero);
    if (p.grad_key) {
      combine_heads<Acc>(p, p.grad_key, p.partial_key, p.dim, slots, slot_count, head_begin, head_end);
    }
    if (p.grad_value) {
      combine_heads<Acc>(p, p.grad_value, p.partial_value, p.value_dim, slots, slot_count, head_begin, head_end);
    }
  };
  p.dtype == DType::kFloat64 ? combine(0.0) : combine(0.0f);
}

}  // namespace seo_kernels::cpu
