// What attention's kernels on warpgroups copy, and why some of it cannot be copied.
#pragma once

#include <utility>

#include "cuda/attention.h"
#include "cuda/sm90/warpgroup.h"

namespace seo_kernels::cuda::sm90 {

constexpr int kBoxRows = 64, kBoxEntries = kBoxRows * cuda::kPanel;  // 64 rows and 64 columns are copied at a time

// 64 rows of all columns: `first` is the entry where the first goes, in a tile of `Rows` rows. Rows and columns that
// the tensor does not have are zeros. By one thread.
template <int Rows, int Width, class Memory>
SK_DEVICE inline void load_rows(const TensorMap& map, Barrier& full, Memory& to, int first, int row, int head,
                                int batch) {
  for (int slab = 0; slab < Width / cuda::kPanel; ++slab) {
    load_box(map, full, to, first + slab * (Rows * cuda::kPanel), slab * cuda::kPanel, row, head, batch);
  }
}

inline CopySource query_source(const AttentionProblem& p) {
  return copy_source(p.query, p.batch, p.query_heads, p.query_length, p.dim);
}
inline CopySource key_source(const AttentionProblem& p) {
  return copy_source(p.key, p.batch, p.key_heads, p.key_length, p.dim);
}
inline CopySource value_source(const AttentionProblem& p) {
  return copy_source(p.value, p.batch, p.key_heads, p.key_length, p.value_dim);
}

// "" where the problem's tensors can be copied.
inline std::string source_refusal(const AttentionProblem& p) {
  if (p.key_length == 0) return "there are no keys to copy";
  const std::pair<const char*, CopySource> sources[] = {
      {"query", query_source(p)}, {"key", key_source(p)}, {"value", value_source(p)}};
  for (const auto& [name, source] : sources) {
    const std::string refusal = copy_refusal(source);
    if (!refusal.empty()) return std::string(name) + " cannot be copied, " + refusal;
  }
  return "";
}

}  // namespace seo_kernels::cuda::sm90
