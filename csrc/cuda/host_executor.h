// The executor's host side; see executor.h.
#pragma once

#include <algorithm>
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

constexpr int kHostGroup = 128;  // threads of a warpgroup

// Of each warpgroup of a block, and after those of each barrier in shared memory, which of its epochs are over for
// certain: all before that one.
struct HostClock {
  static constexpr int kGroups = 8;
  std::vector<int64_t> over = std::vector<int64_t>(kGroups);
  std::vector<int64_t> fenced = over;  // the same, of what the copy engine and the tensor cores may see

  int64_t of(size_t who) const { return who < over.size() ? over[who] : 0; }
  void learn(const HostClock& other) {
    if (over.size() < other.over.size()) over.resize(other.over.size());
    for (size_t n = 0; n < other.over.size(); ++n) over[n] = std::max(over[n], other.over[n]);
    for (size_t n = 0; n < fenced.size(); ++n) fenced[n] = std::max(fenced[n], other.fenced[n]);
  }
};

// Which thread of the block runs, how many barriers it has passed, and how many of its warp's since the last of those.
struct HostThread {
  static constexpr int kNobody = -1;
  int thread = kNobody;
  int64_t epoch = 0, warp_epoch = 0;
  int64_t synced = 0;                 // what was done in epochs before that one, all threads know
  int group = 0;                      // where warpgroups go ways of their own
  const HostClock* others = nullptr;  // and there, what of the others is over

  int who() const { return group * kHostGroup + thread; }
  std::string name() const {
    return thread == kNobody ? "group " + std::to_string(group) : "thread " + std::to_string(who());
  }

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
      copy.by.epoch = HostThread::current().epoch;
      copy.by.warp_epoch = HostThread::current().warp_epoch;
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
  using Entry = T;
  static constexpr int kEntries = N;

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

  // What engines beside the threads do, for a group: copy from global memory, piece by piece of 16 bytes, until
  // `barrier` has completed `phase`; and read, until the group has waited for products number `batch`.
  static constexpr int kPiece = 16 / sizeof(T);
  const T* data() const { return values_.data(); }
  void begin_engine_copy(int n, const HostThread& now) {
    check_pack<kPiece>(n);
    for (int k = 0; k < kPiece; ++k) {
      check_visible_to_engines(n + k, now);
      writes(n + k, now);
      written_[n + k].word = Touch::kUnderWay;
    }
  }
  void end_engine_copy(int n, const T* piece, int barrier, int64_t phase) {
    HostThread by;
    by.epoch = phase;
    for (int k = 0; k < kPiece; ++k) {
      values_[n + k] = piece[k];
      written_[n + k].word = Touch::word_of(by, Touch::kSeveral + HostClock::kGroups + barrier);
    }
  }
  Pack<T, kPiece> begin_engine_read(int n, const HostThread& now, int64_t batch) {
    check_pack<kPiece>(n);
    Pack<T, kPiece> piece;
    for (int k = 0; k < kPiece; ++k) {
      check_there(n + k, now);
      const Touch& written = written_[n + k];
      if (written.word == -1) throw std::logic_error("products read index " + std::to_string(n) + ", never written");
      if (!written.known_to_all(now)) race(n + k, "has products read what", written, now);
      check_visible_to_engines(n + k, now);
      piece.at[k] = values_[n + k];
    }
    if (engine_read_.empty()) engine_read_.resize(HostClock::kGroups);
    if (engine_read_[now.group].empty()) engine_read_[now.group].resize(N / kPiece);
    engine_read_[now.group][n / kPiece].word = Touch::kUnderWay + batch;
    return piece;
  }
  void end_engine_read(int n, const HostThread& now, int64_t batch) {
    Touch& touch = engine_read_[now.group][n / kPiece];
    if (touch.word == Touch::kUnderWay + batch) touch.word = Touch::word_of(now, Touch::kSeveral + now.group);
  }

 private:
  // Who touched an entry, and since which barriers, in one word: most of what the host does is to compare these.
  struct Touch {
    static constexpr int kWhoBits = 12, kWarpEpochBits = 16, kEpochAt = kWhoBits + kWarpEpochBits;
    // threads, then several of a warp, then several of a group, or the copies of a barrier
    static constexpr int kThreads = 1024, kSeveral = 2048;
    static constexpr int64_t kUnderWay = INT64_MIN;
    int64_t word = -1;

    static int64_t word_of(const HostThread& now, int who) {
      return now.epoch << kEpochAt | now.warp_epoch << kWhoBits | who;
    }
    static int64_t word_of(const HostThread& now) { return word_of(now, now.who()); }
    static int warp_of(int who) { return who < kThreads ? who / kHostWarp : who - kThreads; }
    static int group_of(int who) {
      return who >= kSeveral ? who - kSeveral : (who < kThreads ? who / kHostWarp : who - kThreads) / 4;
    }

    int who() const { return static_cast<int>(word & ((1 << kWhoBits) - 1)); }
    bool in_flight() const { return word < -1; }
    bool by_copy() const { return word >= 0 && who() >= kSeveral + HostClock::kGroups; }
    bool before_warp_barrier(const HostThread& now) const {
      return (word >> kWhoBits & ((1 << kWarpEpochBits) - 1)) < now.warp_epoch;
    }
    bool known_to_all(const HostThread& now) const {
      const int group = group_of(who());
      return word >> kEpochAt < (now.others && group != now.group ? now.others->of(group) : now.synced);
    }
    bool by_another(const HostThread& now) const {
      if (word == word_of(now) || who() == now.who()) return false;
      const int64_t epoch = word >> kEpochAt;
      if (now.others && group_of(who()) != now.group) return epoch >= now.others->of(group_of(who()));
      if (epoch < now.synced) return false;
      return warp_of(who()) != now.who() / kHostWarp || !before_warp_barrier(now);
    }
    void note(const HostThread& now) {
      int who = now.who();
      if (by_another(now)) {
        const int warp = who / kHostWarp;
        who = warp_of(this->who()) == warp ? kThreads + warp : kSeveral + now.group;
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
    if (written_[n].by_another(now)) race(n, "reads what", written_[n], now);
    readers(now.group)[n].note(now);
  }
  void writes(int n) { writes(n, inside()); }
  void writes(int n, const HostThread& now) {
    check_there(n, now);
    if (written_[n].by_another(now)) race(n, "writes what", written_[n], now);
    if (read_[n].by_another(now)) race(n, "overwrites what is read by", read_[n], now);
    for (const std::vector<Touch>& read : others_read_) {
      if (!read.empty() && read[n].by_another(now)) race(n, "overwrites what is read by", read[n], now);
    }
    for (const std::vector<Touch>& read : engine_read_) {
      if (read.empty()) continue;
      const Touch& touch = read[n / kPiece];
      if (touch.in_flight()) race(n, "overwrites what products read that are under way,", touch, now);
      if (touch.by_another(now)) race(n, "overwrites what products read,", touch, now);
    }
    written_[n].note(now);
  }
  Touch* readers(int group) {
    if (group == 0) return read_.data();
    if (others_read_.empty()) others_read_.resize(HostClock::kGroups);
    if (others_read_[group].empty()) others_read_[group].resize(N);
    return others_read_[group].data();
  }
  void check_there(int n, const HostThread& now) const {
    if (!written_[n].in_flight()) return;
    throw std::logic_error("shared memory: " + now.name() + " touches index " + std::to_string(n) +
                           ", to which a copy is under way");
  }
  void check_visible_to_engines(int n, const HostThread& now) const {
    const Touch& written = written_[n];
    if (written.word < 0 || written.by_copy() || !now.others) return;
    const int group = Touch::group_of(written.who());
    if (written.word >> Touch::kEpochAt < now.others->fenced[group]) return;
    throw std::logic_error("shared memory: an engine touches index " + std::to_string(n) +
                           ", which threads wrote without show_to_engines");
  }
  static HostThread inside() {
    const HostThread now = HostThread::current();
    if (now.thread == HostThread::kNobody) throw std::logic_error("shared memory touched outside of for_threads");
    return now;
  }
  [[noreturn]] static void race(int n, const char* what, const Touch& touch, const HostThread& now) {
    const int other = touch.who();
    const std::string whom = touch.in_flight()         ? "several threads"
                             : other < Touch::kThreads ? "thread " + std::to_string(other)
                             : touch.by_copy()         ? "the copy engine"
                                                       : "several threads";
    throw std::logic_error("shared memory: without a barrier, " + now.name() + " " + what + " " + whom +
                           " touched at index " + std::to_string(n));
  }

  std::array<T, N> values_ = poison();
  std::array<Touch, N> written_, read_;          // read_: by the first group
  std::vector<std::vector<Touch>> others_read_;  // by each other group, where any did
  std::vector<std::vector<Touch>> engine_read_;  // by each group's products, in pieces of 16 bytes

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

// Threads that run together: a block's, or a warpgroup's.
class HostThreads {
 public:
  explicit HostThreads(int threads) : threads_(threads) {}

  int threads() const { return threads_; }

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
    HostThread& now = HostThread::current();
    now.synced = ++now.epoch;
    now.warp_epoch = 0;
  }
  void sync_warp() { ++HostThread::current().warp_epoch; }
  static unsigned take(unsigned* counter) { return (*counter)++; }

  template <int Width, int First = 1, class V, class F>
  void combine(PerThread<V>& value, F f) {
    std::vector<V> before(threads_);
    for (int distance = First; distance < First * Width; distance *= 2) {
      for (int n = 0; n < threads_; ++n) before[n] = value[n];
      for (int n = 0; n < threads_; ++n) value[n] = f(before[n], before[n ^ distance]);
    }
  }

 private:
  int threads_;
};

template <class Shared>
class Block : public HostThreads {
 public:
  Block(int64_t index, int threads) : HostThreads(threads), index_(index), shared_(std::make_unique<Shared>()) {}

  int64_t index() const { return index_; }
  Shared& shared() { return *shared_; }

  template <class Flag>
  bool arrives_last(unsigned* counter, unsigned total, Flag&) {
    sync();
    if (++*counter < total) return false;
    *counter = 0;
    return true;
  }

 private:
  int64_t index_;
  std::unique_ptr<Shared> shared_;
};

inline void clear(unsigned* counter, Stream, const char*) { *counter = 0; }

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
