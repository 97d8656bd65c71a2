// Work on torch's threads in numbered slots, so that results depend on the number of threads alone.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <cstdint>

namespace seo_kernels {

// Multiply-adds below which a second thread costs more than it brings.
constexpr int64_t kSerialWork = 1 << 17;

// Slots worth starting for this many multiply-adds.
inline int64_t slots_for(int64_t work) { return work < kSerialWork ? 1 : torch::stable::get_num_threads(); }

template <class F>
void for_each_slot(int64_t slots, F f) {
  if (slots == 1) return f(0);
  torch::stable::parallel_for(0, slots, 1, [&](int64_t begin, int64_t end) {
    for (int64_t slot = begin; slot < end; ++slot) f(slot);
  });
}

}  // namespace seo_kernels
