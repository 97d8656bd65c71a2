// Memory that a call works in, kept by its thread for the next call: fresh memory would be faulted in, page by page.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <new>
#include <utility>
#include <vector>

#include "cpu/huge_pages.h"

namespace seo_kernels {

// Aligned, uninitialised; given back to the thread that it came from.
class WorkingMemory {
 public:
  explicit WorkingMemory(size_t bytes) : block_(kept().take(bytes)) {}
  WorkingMemory(WorkingMemory&& other) noexcept : block_(std::exchange(other.block_, {})) {}
  WorkingMemory& operator=(WorkingMemory&&) = delete;
  ~WorkingMemory() {
    if (block_.data) kept().give_back(block_);
  }

  void* data() const { return block_.data; }

 private:
  struct Block {
    void* data = nullptr;
    size_t bytes = 0;
  };

  // Blocks that nothing uses now, the longest unused first.
  class Kept {
   public:
    Kept() = default;
    Kept(const Kept&) = delete;
    Kept& operator=(const Kept&) = delete;
    ~Kept() {
      for (const Block& block : blocks_) std::free(block.data);
    }

    Block take(size_t bytes) {
      const size_t alignment = bytes < cpu::kHugePage ? kLine : cpu::kHugePage;
      const size_t size = std::max<size_t>(1, (bytes + alignment - 1) / alignment) * alignment;
      const auto fits = [&](const Block& block) { return block.bytes >= size && block.bytes / 2 <= size; };
      const auto found = std::find_if(blocks_.rbegin(), blocks_.rend(), fits);
      if (found != blocks_.rend()) {
        const Block block = *found;
        blocks_.erase(std::next(found).base());
        bytes_ -= block.bytes;
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
      while (bytes_ > kMost) {
        std::free(blocks_.front().data);
        bytes_ -= blocks_.front().bytes;
        blocks_.erase(blocks_.begin());
      }
    }

   private:
    static constexpr size_t kLine = 64, kMost = size_t{32} << 20;

    std::vector<Block> blocks_;
    size_t bytes_ = 0;
  };

  static Kept& kept() {
    thread_local Kept of_this_thread;
    return of_this_thread;
  }

  Block block_;
};

}  // namespace seo_kernels
