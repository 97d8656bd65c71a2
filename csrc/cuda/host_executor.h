// The executor's host side; see executor.h.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#define SK_DEVICE
#define SK_OUTLINED_ON_HOST __attribute__((noinline))

namespace seo_kernels::cuda {

using Stream = void*;

// Which thread of the block runs, and how many barriers it has passed.
struct HostThread {
  static constexpr int kNobody = -1;
  int thread = kNobody;
  int64_t epoch = 0;

  static HostThread& current() {
    static thread_local HostThread state;
    return state;
  }
};

inline void compute_anew_from(int&) {}

template <class T, int N>
struct alignas(16) Pack {
  T at[N];
};

// Entries that know who touched them since the last barrier.
template <class T, int N>
class SharedArray {
 public:
  class Reference {
   public:
    Reference(SharedArray& array, int n) : array_(array), n_(n) {}
    Reference(const Reference&) = default;
    operator T() const {
      array_.reads(n_);
      return array_.values_[n_];
    }
    const Reference& operator=(T value) const {
      array_.writes(n_);
      array_.values_[n_] = value;
      return *this;
    }
    const Reference& operator=(const Reference& other) const { return *this = static_cast<T>(other); }
    const Reference& operator+=(T value) const { return *this = static_cast<T>(*this) + value; }

   private:
    SharedArray& array_;
    int n_;
  };

  Reference operator[](int n) {
    if (n < 0 || n >= N) {
      throw std::logic_error("shared memory: index " + std::to_string(n) + " of " + std::to_string(N));
    }
    return {*this, n};
  }

  template <int K>
  Pack<T, K> pack(int n) {
    const HostThread now = inside();
    check_pack<K>(n);
    Pack<T, K> pack;
    for (int k = 0; k < K; ++k) {
      reads(n + k, now);
      pack.at[k] = values_[n + k];
    }
    return pack;
  }
  template <int K>
  void set_pack(int n, const Pack<T, K>& pack) {
    const HostThread now = inside();
    check_pack<K>(n);
    for (int k = 0; k < K; ++k) {
      writes(n + k, now);
      values_[n + k] = pack.at[k];
    }
  }

 private:
  // Who touched an entry, and since which barrier, in one word: most of what the host does is to compare these.
  struct Touch {
    static constexpr int kSeveral = -2, kThreadBits = 12;
    int64_t word = -1;

    static int64_t word_of(int64_t epoch, int thread) { return epoch * (1 << kThreadBits) + thread + 2; }
    int thread() const { return static_cast<int>(word & ((1 << kThreadBits) - 1)) - 2; }
    bool by_another(const HostThread& now) const {
      return word != word_of(now.epoch, now.thread) && word >> kThreadBits == now.epoch;
    }
    void note(const HostThread& now) { word = word_of(now.epoch, by_another(now) ? kSeveral : now.thread); }
  };

  template <int K>
  static void check_pack(int n) {
    if (n >= 0 && n + K <= N && n % K == 0) return;
    throw std::logic_error("shared memory: " + std::to_string(K) + " entries from index " + std::to_string(n) + " of " +
                           std::to_string(N));
  }
  void reads(int n) { reads(n, inside()); }
  void reads(int n, const HostThread& now) {
    if (written_[n].by_another(now)) race(n, "reads what", written_[n].thread(), now.thread);
    read_[n].note(now);
  }
  void writes(int n) { writes(n, inside()); }
  void writes(int n, const HostThread& now) {
    if (written_[n].by_another(now)) race(n, "writes what", written_[n].thread(), now.thread);
    if (read_[n].by_another(now)) race(n, "overwrites what is read by", read_[n].thread(), now.thread);
    written_[n].note(now);
  }
  static HostThread inside() {
    const HostThread now = HostThread::current();
    if (now.thread == HostThread::kNobody) throw std::logic_error("shared memory touched outside of for_threads");
    return now;
  }
  [[noreturn]] static void race(int n, const char* what, int other, int thread) {
    throw std::logic_error("shared memory: without a barrier, thread " + std::to_string(thread) + " " + what +
                           " thread " + std::to_string(other) + " touched at index " + std::to_string(n));
  }

  std::array<T, N> values_ = poison();
  std::array<Touch, N> written_, read_;

  static std::array<T, N> poison() {
    std::array<T, N> values;
    std::memset(static_cast<void*>(values.data()), 0xFF, sizeof(values));  // NaN
    return values;
  }
};

template <class T>
class PerThread {
 public:
  T& operator[](int thread) {
    if (static_cast<size_t>(thread) >= values_.size()) values_.resize(thread + 1);
    return values_[thread];
  }

 private:
  std::vector<T> values_ = std::vector<T>(1024);  // as many as a block may have
};

template <class Shared>
class Block {
 public:
  Block(int64_t index, int threads) : index_(index), threads_(threads), shared_(std::make_unique<Shared>()) {}

  int64_t index() const { return index_; }
  Shared& shared() { return *shared_; }

  template <class F>
  void for_threads(F f) {
    HostThread& now = HostThread::current();
    const bool upwards = now.epoch % 2 == 0;
    for (int n = 0; n < threads_; ++n) {
      now.thread = upwards ? n : threads_ - 1 - n;
      f(now.thread);
    }
    now.thread = HostThread::kNobody;
  }

  void sync() { ++HostThread::current().epoch; }

  template <int Width, class V, class F>
  void combine(PerThread<V>& value, F f) {
    std::vector<V> before(threads_);
    for (int distance = 1; distance < Width; distance *= 2) {
      for (int n = 0; n < threads_; ++n) before[n] = value[n];
      for (int n = 0; n < threads_; ++n) value[n] = f(before[n], before[n ^ distance]);
    }
  }

  template <class Flag>
  bool arrives_last(unsigned* counter, unsigned total, Flag&) {
    sync();
    if (++*counter < total) return false;
    *counter = 0;
    return true;
  }

 private:
  int64_t index_;
  int threads_;
  std::unique_ptr<Shared> shared_;
};

template <class Kernel>
void launch(const Kernel& kernel, int64_t blocks, Stream, const char*) {
  for (int64_t n = 0; n < blocks; ++n) {
    HostThread::current() = {};
    Block<typename Kernel::Shared> block(n, Kernel::kThreads);
    kernel(block);
  }
  HostThread::current() = {};
}

}  // namespace seo_kernels::cuda
