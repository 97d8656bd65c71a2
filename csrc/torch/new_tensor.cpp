#include "torch/new_tensor.h"

#include <pthread.h>

#include <charconv>
#include <cstring>
#include <mutex>

#include "torch/kept_blocks.h"

namespace seo_kernels {
namespace {

constexpr const char* kKeptVariable = "SEO_KERNELS_KEPT_MB";
constexpr size_t kMegabyte = size_t{1} << 20, kLeast = kMegabyte;  // smaller ones malloc keeps itself
constexpr int64_t kMostKept = 1024;                                // megabytes

size_t kept_at_first() {
  const char* text = std::getenv(kKeptVariable);
  if (!text || !*text) return kMostKept * kMegabyte;
  int64_t megabytes = 0;
  const char* end = text + std::strlen(text);
  const auto [stop, error] = std::from_chars(text, end, megabytes);
  if (error == std::errc() && stop == end && megabytes >= 0 && megabytes <= INT64_MAX >> 20) {
    return static_cast<size_t>(megabytes) * kMegabyte;
  }
  throw std::invalid_argument(std::string(kKeptVariable) + " is '" + text +
                              "', expected how many megabytes of freed results to keep, 0 for none");
}

// The memory of results that nothing uses any more, of all threads.
class FreedResults {
 public:
  // No data where there is no memory, even without what was kept.
  Block take(size_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    try {
      return blocks_.take(bytes);
    } catch (const std::bad_alloc&) {
      const size_t most = blocks_.most();
      blocks_.keep(0);
      blocks_.keep(most);
      return {};
    }
  }

  void give_back(const Block& block) {
    const std::lock_guard<std::mutex> lock(mutex_);
    blocks_.give_back(block);
  }

  size_t most() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return blocks_.most();
  }

  void keep(size_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    blocks_.keep(bytes);
  }

  // Never destroyed: tensors may outlive everything.
  static FreedResults& all() {
    static FreedResults& freed = *new FreedResults;
    return freed;
  }

 private:
  FreedResults() : blocks_(kept_at_first(), 8) {
    // a process that forks while another thread frees a tensor has a child that can go on
    pthread_atfork([] { all().mutex_.lock(); }, [] { all().mutex_.unlock(); }, [] { all().mutex_.unlock(); });
  }

  std::mutex mutex_;
  KeptBlocks blocks_;
};

size_t size_of(ScalarType type) {
  switch (type) {
    case ScalarType::Double:
    case ScalarType::Long:
      return 8;
    case ScalarType::Float:
      return 4;
    case ScalarType::BFloat16:
    case ScalarType::Half:
      return 2;
    case ScalarType::Byte:
    case ScalarType::Bool:
      return 1;
    default:
      throw std::invalid_argument("no kernel makes tensors of this dtype");
  }
}

// Returns what it was before.
int64_t keep_freed_results(int64_t bytes) {
  if (bytes < 0) throw std::invalid_argument("bytes is " + std::to_string(bytes) + ", expected at least 0");
  const size_t before = FreedResults::all().most();
  FreedResults::all().keep(static_cast<size_t>(bytes));
  return static_cast<int64_t>(before);
}

}  // namespace

Tensor make_tensor(const Tensor& like, const std::vector<int64_t>& shape, ScalarType type, bool zero) {
  const torch::headeronly::IntHeaderOnlyArrayRef sizes(shape.data(), shape.size());
  const auto by_torch = [&] {
    return zero ? torch::stable::new_zeros(like, sizes, type) : torch::stable::new_empty(like, sizes, type);
  };
  size_t bytes = size_of(type);
  for (const int64_t size : shape) {
    if (__builtin_mul_overflow(bytes, static_cast<size_t>(size), &bytes)) return by_torch();  // an error that says so
  }
  if (bytes < kLeast) return by_torch();
  Block block;
  if (FreedResults::all().most() > 0) block = FreedResults::all().take(bytes);
  if (!block.data) {
    const Tensor tensor = by_torch();
    if (!zero) cpu::advise_huge_pages(tensor.data_ptr(), bytes);
    return tensor;
  }
  if (zero) std::memset(block.data, 0, bytes);
  std::vector<int64_t> strides(shape.size(), 1);
  for (size_t n = shape.size(); n-- > 1;) strides[n - 1] = strides[n] * shape[n];
  return torch::stable::from_blob(
      block.data, sizes, torch::headeronly::IntHeaderOnlyArrayRef(strides.data(), strides.size()), like.device(), type,
      [bytes = block.bytes](void* data) { FreedResults::all().give_back({data, bytes}); });
}

}  // namespace seo_kernels

STABLE_TORCH_LIBRARY_IMPL(seo_kernels, CompositeExplicitAutograd, m) {
  m.impl("keep_freed_results", TORCH_BOX(&seo_kernels::keep_freed_results));
}
