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

constexpr int kHostWarp = 32;

// Which thread of the block runs, how many barriers it has passed, and how many of its warp's since the last of those.
struct HostThread {
  static constexpr int kNobody = -1;
  int thread = kNobody;
  int64_t epoch = 0, warp_epoch = 0;

  static HostThread& current() {
    static thread_local HostThread state;
    return state;
  }
};

inline void compute_anew_from(int&) {}

// Copies into shared memory that are under way: they land when they are waited for, group by group.
struct HostCopies {
  struct Copy {
    int64_t group;
    HostThread by;
    void* array;
    int n;
    void (*land)(const Copy&);
  };
  std::vector<Copy> under_way;
  int64_t committed = 0;  // groups

  static HostCopies& current() {
    static thread_local HostCopies copies;
    return copies;
  }

  // All but the latest `late` groups.
  void land(int64_t late) {
    std::vector<Copy> rest;
    for (Copy& copy : under_way) {
      if (copy.group >= committed - late) {
        rest.push_back(copy);
        continue;
      }
      copy.by = {copy.by.thread, HostThread::current().epoch, HostThread::current().warp_epoch};
      copy.land(copy);
    }
    under_way.swap(rest);
  }
};

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

  // Entries n and n + 1 of 2 bytes, the first in the low half; n is even.
  void set_pair(int n, uint32_t pair) {
    static_assert(sizeof(T) == 2);
    Pack<T, 2> two;
    std::memcpy(&two, &pair, sizeof(pair));
    set_pack<2>(n, two);
  }

  // 16 bytes on their way to entry n and those after; zeros from a null pointer. They are there when they are waited
  // for, and nobody may touch them before.
  void begin_copy(int n, const T* from) {
    constexpr int count = 16 / sizeof(T);
    const HostThread now = inside();
    check_pack<count>(n);
    if (reinterpret_cast<uintptr_t>(from) % 16 != 0) throw std::logic_error("a copy of 16 bytes from between them");
    for (int k = 0; k < count; ++k) {
      writes(n + k, now);
      values_[n + k] = from ? from[k] : T{};
      written_[n + k].word = Touch::kUnderWay;
    }
    HostCopies& copies = HostCopies::current();
    copies.under_way.push_back({copies.committed, now, this, n, [](const HostCopies::Copy& copy) {
                                  auto& written = static_cast<SharedArray*>(copy.array)->written_;
                                  for (int k = 0; k < count; ++k) written[copy.n + k].word = Touch::word_of(copy.by);
                                }});
  }

 private:
  // Who touched an entry, and since which barriers, in one word: most of what the host does is to compare these.
  struct Touch {
    static constexpr int kWhoBits = 12, kWarpEpochBits = 16, kEpochAt = kWhoBits + kWarpEpochBits;
    // threads, then several of a warp, then several of all
    static constexpr int kThreads = 1024, kSeveral = (1 << kWhoBits) - 1;
    static constexpr int64_t kUnderWay = INT64_MIN;
    int64_t word = -1;

    static int64_t word_of(const HostThread& now, int who) {
      return now.epoch << kEpochAt | now.warp_epoch << kWhoBits | who;
    }
    static int64_t word_of(const HostThread& now) { return word_of(now, now.thread); }
    static int warp_of(int who) { return who < kThreads ? who / kHostWarp : who - kThreads; }

    int who() const { return static_cast<int>(word & ((1 << kWhoBits) - 1)); }
    bool before_warp_barrier(const HostThread& now) const {
      return (word >> kWhoBits & ((1 << kWarpEpochBits) - 1)) < now.warp_epoch;
    }
    bool by_another(const HostThread& now) const {
      if (word == word_of(now) || word >> kEpochAt != now.epoch || who() == now.thread) return false;
      return warp_of(who()) != now.thread / kHostWarp || !before_warp_barrier(now);
    }
    void note(const HostThread& now) {
      int who = now.thread;
      if (by_another(now)) {
        const int warp = now.thread / kHostWarp;
        who = warp_of(this->who()) == warp ? kThreads + warp : kSeveral;
      }
      word = word_of(now, who);
    }
  };

  template <int K>
  static void check_pack(int n) {
    if (n >= 0 && n + K <= N && n % K == 0) return;
    throw std::logic_error("shared memory: " + std::to_string(K) + " entries from index " + std::to_string(n) + " of " +
                           std::to_string(N));
  }
  void reads(int n) { reads(n, inside()); }
  void reads(int n, const HostThread& now) {
    check_there(n, now);
    if (written_[n].by_another(now)) race(n, "reads what", written_[n].who(), now.thread);
    read_[n].note(now);
  }
  void writes(int n) { writes(n, inside()); }
  void writes(int n, const HostThread& now) {
    check_there(n, now);
    if (written_[n].by_another(now)) race(n, "writes what", written_[n].who(), now.thread);
    if (read_[n].by_another(now)) race(n, "overwrites what is read by", read_[n].who(), now.thread);
    written_[n].note(now);
  }
  void check_there(int n, const HostThread& now) const {
    if (written_[n].word != Touch::kUnderWay) return;
    throw std::logic_error("shared memory: thread " + std::to_string(now.thread) + " touches index " +
                           std::to_string(n) + ", to which a copy is under way");
  }
  static HostThread inside() {
    const HostThread now = HostThread::current();
    if (now.thread == HostThread::kNobody) throw std::logic_error("shared memory touched outside of for_threads");
    return now;
  }
  [[noreturn]] static void race(int n, const char* what, int other, int thread) {
    const std::string whom = other < Touch::kThreads ? "thread " + std::to_string(other) : "several threads";
    throw std::logic_error("shared memory: without a barrier, thread " + std::to_string(thread) + " " + what + " " +
                           whom + " touched at index " + std::to_string(n));
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
  int threads() const { return threads_; }
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

  void sync() {
    ++HostThread::current().epoch;
    HostThread::current().warp_epoch = 0;
  }
  void sync_warp() { ++HostThread::current().warp_epoch; }

  template <int Width, int First = 1, class V, class F>
  void combine(PerThread<V>& value, F f) {
    std::vector<V> before(threads_);
    for (int distance = First; distance < First * Width; distance *= 2) {
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
    HostCopies::current() = {};
    Block<typename Kernel::Shared> block(n, Kernel::kThreads);
    kernel(block);
    if (!HostCopies::current().under_way.empty()) throw std::logic_error("a kernel ends with copies under way");
  }
  HostThread::current() = {};
}

}  // namespace seo_kernels::cuda
