#include "torch/cuda/device_plan.h"

#include <cstring>
#include <list>
#include <mutex>

#include "cuda/graph_capture.h"
#include "torch/cuda/device.h"

namespace seo_kernels {
namespace {

// More than the host keeps: what is thrown away here must not be in use by any stream any more, and the copies of so
// many later plans have been waited for since.
constexpr size_t kCachedPlans = 256;

struct CacheEntry {
  PatternKey key;
  int64_t key_heads;
  torch::stable::Device device;
  Tensor memory;
  cuda::DevicePlan plan;
  bool captured = false;
};

// Arrays one after the other in one piece of memory.
class Packing {
 public:
  template <class T>
  int64_t add(const T* items, size_t count) {
    const size_t at = (bytes_.size() + 15) / 16 * 16;
    bytes_.resize(at + count * sizeof(T));
    if (count > 0) std::memcpy(bytes_.data() + at, items, count * sizeof(T));
    return static_cast<int64_t>(at);
  }
  template <class T>
  T* find(int64_t at) {
    return reinterpret_cast<T*>(bytes_.data() + at);
  }
  int64_t size() const { return static_cast<int64_t>(bytes_.size()); }
  const uint8_t* data() const { return bytes_.data(); }

 private:
  std::vector<uint8_t> bytes_;
};

CacheEntry copied(const PatternKey& key, int64_t key_heads, const PlannedPattern& planned, const Tensor& like) {
  const TilePlan& plan = planned.plan;
  const PanelPlan turned = by_panels(plan, key.key_length);
  Packing packing;
  const int64_t program = packing.add(&planned.program, 1);
  const int64_t layout = packing.add(planned.layout.data(), planned.layout.size());
  const int64_t offsets = packing.add(plan.offsets.data(), plan.offsets.size());
  const int64_t runs = packing.add(plan.runs.data(), plan.runs.size());
  const int64_t panel_offsets = packing.add(turned.offsets.data(), turned.offsets.size());
  const int64_t panel_runs = packing.add(turned.runs.data(), turned.runs.size());
  const std::vector<int32_t> longest = longest_first(plan.panels);
  const std::vector<int32_t> longest_panels = longest_first(work_of_panels(turned, plan.heads, key_heads));
  const int64_t order = packing.add(longest.data(), longest.size());
  const int64_t panel_order = packing.add(longest_panels.data(), longest_panels.size());

  Tensor memory = new_tensor(like, {packing.size()}, ScalarType::Byte);
  const uint8_t* there = static_cast<const uint8_t*>(memory.data_ptr());
  packing.find<PatternProgram>(program)->layout = there + layout;
  const std::vector<int64_t> shape{packing.size()};
  const Tensor here =
      torch::stable::empty(torch::headeronly::IntHeaderOnlyArrayRef(shape.data(), shape.size()), ScalarType::Byte);
  std::memcpy(here.data_ptr(), packing.data(), static_cast<size_t>(packing.size()));
  torch::stable::copy_(memory, here);
  const cuda::DevicePlan device{plan.tile_rows,
                                plan.tiles,
                                turned.panels,
                                plan.heads != 1,
                                reinterpret_cast<const int64_t*>(there + offsets),
                                reinterpret_cast<const PanelRun*>(there + runs),
                                reinterpret_cast<const int64_t*>(there + panel_offsets),
                                reinterpret_cast<const PanelRun*>(there + panel_runs),
                                reinterpret_cast<const PatternProgram*>(there + program),
                                reinterpret_cast<const int32_t*>(there + order),
                                reinterpret_cast<const int32_t*>(there + panel_order)};
  return CacheEntry{key, key_heads, like.device(), memory, device};
}

}  // namespace

cuda::DevicePlan device_plan(const AttentionArguments& arguments, const AttentionProblem& problem, cuda::Stream stream,
                             int64_t tile_rows) {
  static std::mutex mutex;
  static auto& cache = *new std::list<CacheEntry>;  // most recent first; at exit the device may be gone before it
  PatternKey key = arguments.pattern_key(problem);
  key.most_rows = key.row_step = tile_rows;
  const std::lock_guard<std::mutex> lock(mutex);
  auto found = std::find_if(cache.begin(), cache.end(), [&](const CacheEntry& entry) {
    return entry.key == key && entry.key_heads == problem.key_heads && entry.device == arguments.query.device();
  });
  if (found == cache.end()) {
    const auto planned = planned_pattern(key, arguments.layout_reader());
    cache.push_front(copied(key, problem.key_heads, *planned, arguments.query));
    found = cache.begin();
    if (cache.size() > kCachedPlans) {
      const auto oldest = std::find_if(cache.rbegin(), cache.rend(), [](const CacheEntry& e) { return !e.captured; });
      if (oldest != cache.rend() && &*oldest != &*found) cache.erase(std::next(oldest).base());
    }
  }
  cache.splice(cache.begin(), cache, found);
  found->captured |= cuda::is_captured(stream);
  return found->plan;
}

}  // namespace seo_kernels
