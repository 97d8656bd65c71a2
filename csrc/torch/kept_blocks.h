// Blocks of memory that nothing uses now, kept for what asks next: fresh memory would be faulted in, page by page.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <new>
#include <vector>

#include "cpu/huge_pages.h"

namespace seo_kernels {

struct Block {
  void* data = nullptr;
  size_t bytes = 0;
};

// Not for several threads at once.
class KeptBlocks {
 public:
  // most: bytes kept; a block serves what leaves at most its spare-th part of it unused
  KeptBlocks(size_t most, size_t spare) : most_(most), spare_(spare) {}
  KeptBlocks(const KeptBlocks&) = delete;
  KeptBlocks& operator=(const KeptBlocks&) = delete;
  ~KeptBlocks() { keep(0); }

  size_t most() const { return most_; }

  void keep(size_t most) {
    most_ = most;
    size_t freed = 0;
    for (; bytes_ > most_; ++freed) {
      std::free(blocks_[freed].data);
      bytes_ -= blocks_[freed].bytes;
    }
    blocks_.erase(blocks_.begin(), blocks_.begin() + static_cast<std::ptrdiff_t>(freed));
  }

  // Aligned, uninitialised; of those that fit the one used last, which caches may still hold.
  Block take(size_t bytes) {
    const size_t alignment = bytes < cpu::kHugePage ? kLine : cpu::kHugePage;
    const size_t size = std::max<size_t>(1, (bytes + alignment - 1) / alignment) * alignment;
    const auto fits = [&](const Block& block) {
      return block.bytes >= size && block.bytes - size <= block.bytes / spare_;
    };
    const auto found = std::find_if(blocks_.rbegin(), blocks_.rend(), fits);
    if (found != blocks_.rend()) {
      const Block block = *found;
      blocks_.erase(std::next(found).base());
      bytes_ -= block.bytes;
      if (perturbed() != 0) std::memset(block.data, perturbed() ^ 0xFF, block.bytes);
      return block;
    }
    const Block block{std::aligned_alloc(alignment, size), size};
    if (!block.data) throw std::bad_alloc();
    cpu::advise_huge_pages(block.data, size);
    return block;
  }

  void give_back(const Block& block) {
    blocks_.push_back(block);
    bytes_ += block.bytes;
    keep(most_);
  }

 private:
  static constexpr size_t kLine = 64;

  // mallopt(3): what malloc writes over new memory, for whoever looks for reads of what was never written
  static int perturbed() {
    static const int byte = [] {
      const char* value = std::getenv("MALLOC_PERTURB_");
      return value ? std::atoi(value) & 0xFF : 0;
    }();
    return byte;
  }

  size_t most_, spare_, bytes_ = 0;
  std::vector<Block> blocks_;  // the longest unused first
};

}  // namespace seo_kernels
