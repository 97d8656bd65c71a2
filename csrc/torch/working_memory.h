// Memory that a call works in, kept by its thread for the next call.
#pragma once

#include <utility>

#include "torch/kept_blocks.h"

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
  static KeptBlocks& kept() {
    thread_local KeptBlocks of_this_thread(size_t{32} << 20, 2);
    return of_this_thread;
  }

  Block block_;
};

}  // namespace seo_kernels
