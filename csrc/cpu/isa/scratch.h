// Working memory of one slot: aligned, uninitialised, freed with its owner.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <new>
#include <utility>

#include "cpu/huge_pages.h"

namespace seo_kernels::cpu {
namespace {

template <class T>
class Scratch {
 public:
  Scratch() = default;
  explicit Scratch(int64_t count) {
    if (count <= 0) return;
    const size_t size = static_cast<size_t>(count) * sizeof(T);
    const size_t alignment = size < kHugePage ? kLine : kHugePage;
    const size_t bytes = (size + alignment - 1) / alignment * alignment;
    data_ = static_cast<T*>(std::aligned_alloc(alignment, bytes));
    if (!data_) throw std::bad_alloc();
    advise_huge_pages(data_, bytes);
  }
  Scratch(Scratch&& other) noexcept : data_(std::exchange(other.data_, nullptr)) {}
  Scratch& operator=(Scratch&& other) noexcept {
    std::swap(data_, other.data_);
    return *this;
  }
  ~Scratch() { std::free(data_); }

  T* get() const { return data_; }
  T& operator[](int64_t i) const { return data_[i]; }

 private:
  static constexpr size_t kLine = 64;

  T* data_ = nullptr;
};

}  // namespace
}  // namespace seo_kernels::cpu
