// In which order blocks take tiles of queries, or panels of keys: the longest first, so that short ones fill the end.
//
// A GPU starts blocks in the order of their indices, each as soon as there is room for it: sorted indices are the
// schedule. Blocks that stay and take what nobody has taken yet balance as well; what they gain is that they bring the
// next tile's operands while they finish one.
#pragma once

#include <algorithm>

#include "cuda/attention.h"
#include "cuda/device_limits.h"

namespace seo_kernels::cuda {

// Members are what the plan has one order for: (batch, head), or, where heads differ, batches. A section of them runs
// side by side, the longest tiles of all first; what its tiles share fits the cache. The next section's longest tiles
// begin while the shortest of this one end.
struct Schedule {
  const int32_t* order;
  unsigned units;  // tiles or panels of a member
  unsigned members, section;

  int64_t blocks() const { return int64_t{units} * members; }

  // What a block works on: in (batch, head, tile) or in (batch, key head, panel).
  SK_DEVICE int64_t at(int64_t block) const {
    const unsigned index = static_cast<unsigned>(block), whole = section * units;
    const unsigned first = index / whole * section, within = index % whole;
    const unsigned beside = members - first < section ? members - first : section;
    return int64_t{first + within % beside} * units + order[within / beside];
  }
};

// How blocks share what a schedule has: each begins with the one of its own index, and goes on to the first that nobody
// has taken.
struct Deal {
  unsigned count, blocks;
  unsigned* taken;  // beyond the first of each; null where there is a block for each

  SK_DEVICE bool has(unsigned index) const { return index < count; }
  // By one thread.
  template <class Block>
  SK_DEVICE unsigned next(Block& block) const {
    return taken ? blocks + block.take(taken) : count;
  }
};

// taken: memory for a number, or null. One block fits a multiprocessor.
inline Deal deal_of(const Schedule& schedule, unsigned* taken, Stream stream, const char* op) {
  const int64_t count = schedule.blocks(), room = multiprocessors();
  if (!taken || count <= room) return {static_cast<unsigned>(count), static_cast<unsigned>(count), nullptr};
  clear(taken, stream, op);
  return {static_cast<unsigned>(count), static_cast<unsigned>(room), taken};
}

// Members of a section, where every `sharing` of them read the same `bytes`.
inline unsigned section_of(int64_t members, int64_t sharing, int64_t bytes) {
  const int64_t room = device_limits().cache_bytes / 2;  // the other half is for all else
  const int64_t most = std::max<int64_t>(1, room / std::max<int64_t>(1, bytes)) * sharing;
  return static_cast<unsigned>(std::max<int64_t>(1, std::min(members, most)));
}

// Of two tensors' rows, of 16 bits: keys and values, or queries and gradients of outputs.
inline int64_t bytes_of_rows(const AttentionProblem& p, int64_t rows) { return rows * (p.dim + p.value_dim) * 2; }

inline Schedule schedule_of_queries(const AttentionParams& p) {
  const bool apart = p.plan.per_head;
  const int64_t members = apart ? p.batch : p.batch * p.query_heads;
  const int64_t bytes = bytes_of_rows(p, p.key_length) * (apart ? p.key_heads : 1);
  return {p.plan.order, static_cast<unsigned>(p.plan.tiles * (apart ? p.query_heads : 1)),
          static_cast<unsigned>(members), section_of(members, apart ? 1 : p.group(), bytes)};
}

inline Schedule schedule_of_keys(const AttentionParams& p) {
  const bool apart = p.plan.per_head;
  const int64_t members = apart ? p.batch : p.batch * p.key_heads;
  const int64_t bytes = bytes_of_rows(p, p.query_length) * (apart ? p.query_heads : p.group());
  return {p.plan.panel_order, static_cast<unsigned>(p.plan.panels * (apart ? p.key_heads : 1)),
          static_cast<unsigned>(members), section_of(members, 1, bytes)};
}

}  // namespace seo_kernels::cuda
