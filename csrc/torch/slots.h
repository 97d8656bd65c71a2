// Work on torch's threads: in numbered slots, so that results depend on the number of threads alone, or item by item.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
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

// f(begin, end) over [0, count), in parallel where an item has enough entries to be worth it.
template <class F>
void over_items(int64_t count, int64_t entries_each, F f) {
  constexpr int64_t kSerialEntries = 1 << 15;
  if (count == 0) return;
  const int64_t grain = std::max<int64_t>(1, kSerialEntries / std::max<int64_t>(1, entries_each));
  if (count <= grain) return f(0, count);
  torch::stable::parallel_for(0, count, grain, f);
}

}  // namespace seo_kernels
