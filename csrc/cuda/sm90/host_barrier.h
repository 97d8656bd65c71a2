// Barriers in shared memory, and the copies that they count, on the host. A copy lands when somebody waits for it, as
// late as can be; until then nobody may touch where it goes. Each barrier tells those who wait what those who arrived
// had done, so that a stage that is read too early, or overwritten too early, is a race.
#pragma once

#include <map>

#include "cuda/sm90/host_roles.h"

namespace seo_kernels::cuda {

class Barrier;

// What a warpgroup knows of the others', and which phases it has waited for.
struct HostGroup {
  HostClock known, alone;  // alone: its one thread, which may have waited for more
  std::map<const Barrier*, int64_t> waited;
  int64_t* copies_under_way;  // of the block

  static HostGroup*& current() {
    static thread_local HostGroup* group = nullptr;
    return group;
  }
};

class Barrier {
 public:
  // Barriers of the block that begins in this thread.
  static int& count() {
    static thread_local int barriers = 0;
    return barriers;
  }

  void init(int arrivals) {
    if (arrivals <= 0) throw std::logic_error("a barrier of " + std::to_string(arrivals) + " arrivals");
    if (HostGroup::current()) throw std::logic_error("a barrier is initialized after the roles began");
    *this = {};
    id_ = count()++;
    arrivals_ = pending_ = arrivals;
  }

  std::string name() const { return "barrier " + std::to_string(id_); }

  void arrive(int arrivals, const HostClock& done) {
    check_there();
    complete_phase();
    if (arrivals > pending_) {
      throw std::logic_error(name() + ": more arrivals than the " + std::to_string(arrivals_) + " of a phase" +
                             of_bytes());
    }
    pending_ -= arrivals;
    arrived_.learn(done);
  }

  void expect(int bytes, const HostClock& done) {
    arrive(1, done);
    expected_ += bytes;
  }

  // land(barrier, phase): when the phase is complete
  void copy(int bytes, std::function<void(int, int64_t)> land) {
    check_there();
    begun_ += bytes;
    if (begun_ > expected_) {
      throw std::logic_error(name() + ": copies of " + std::to_string(begun_) + " bytes, it expects " +
                             std::to_string(expected_));
    }
    copies_.push_back(std::move(land));
    under_way_ = HostGroup::current()->copies_under_way;
    ++*under_way_;
  }

  void wait(int parity, HostClock& known) {
    check_there();
    HostGroup& group = *HostGroup::current();
    HostRoles::current()->wait_until([&] { return wait_text(parity); },
                                     [&] {
                                       complete_phase();
                                       return (completed_ & 1) != parity;
                                     });
    const auto before = group.waited.find(this);
    if (before != group.waited.end() && before->second == completed_) {
      throw std::logic_error(name() + ": a wait with parity " + std::to_string(parity) +
                             " for a phase that was waited for before: a wrong parity");
    }
    group.waited[this] = completed_;
    known.learn(released_);
  }

 private:
  void check_there() const {
    if (id_ < 0) throw std::logic_error("a barrier is used that is not initialized");
  }
  std::string of_bytes() const {
    return ", " + std::to_string(begun_) + " of " + std::to_string(expected_) + " bytes under way";
  }
  std::string wait_text(int parity) const {
    return name() + " with parity " + std::to_string(parity) + " (phase " + std::to_string(completed_) + ", " +
           std::to_string(arrivals_ - pending_) + " of " + std::to_string(arrivals_) + " arrivals" + of_bytes() + ")";
  }
  void complete_phase() {
    if (pending_ > 0 || begun_ != expected_) return;
    for (const auto& land : copies_) land(id_, completed_);
    if (!copies_.empty()) *under_way_ -= static_cast<int64_t>(copies_.size());
    copies_.clear();
    released_ = arrived_;
    const size_t own = HostClock::kGroups + id_;
    if (released_.over.size() <= own) released_.over.resize(own + 1);
    released_.over[own] = ++completed_;
    arrived_ = {};
    pending_ = arrivals_;
    begun_ = expected_ = 0;
  }

  int id_ = -1, arrivals_ = 0, pending_ = 0;
  int64_t completed_ = 0, begun_ = 0, expected_ = 0;  // phases, bytes
  std::vector<std::function<void(int, int64_t)>> copies_;
  int64_t* under_way_ = nullptr;  // copies of the block
  HostClock arrived_, released_;
};

inline void init_barrier(Barrier& barrier, int arrivals) { barrier.init(arrivals); }

// What happens before an arrival: the epochs before this one are over.
inline HostClock host_arrival(const HostClock& known) {
  HostThread& now = HostThread::current();
  HostClock done = known;
  done.over[now.group] = ++now.epoch;
  return done;
}

inline HostGroup& host_one_thread(const char* what) {
  HostGroup* group = HostGroup::current();
  if (!group || HostThread::current().others != &group->alone) {
    throw std::logic_error(std::string(what) + " outside of one_thread");
  }
  return *group;
}

inline void wait_alone(Barrier& barrier, int parity) { barrier.wait(parity, host_one_thread("wait_alone").alone); }
inline void expect_bytes(Barrier& barrier, int bytes) {
  barrier.expect(bytes, host_arrival(host_one_thread("expect_bytes").alone));
}

struct TensorMap {
  CopySource source;
  int box_rows;
};

inline TensorMap map_of(const CopySource& source, int box_rows, const char* op) {
  const std::string refusal = copy_refusal(source);
  if (!refusal.empty()) throw std::logic_error(std::string(op) + ": a tensor cannot be copied, " + refusal);
  if (box_rows < 1 || box_rows > 256) throw std::logic_error(std::string(op) + ": a box of more than 256 rows");
  return {source, box_rows};
}

template <class Memory>
void load_box(const TensorMap& map, Barrier& barrier, Memory& memory, int n, int column, int row, int head, int batch) {
  host_one_thread("load_box");
  using S = typename Memory::Entry;
  if (reinterpret_cast<uintptr_t>(memory.data()) % kSwizzleBytes != 0 || n % (kSwizzleBytes / sizeof(S)) != 0) {
    throw std::logic_error("a copy to between multiples of 1024 bytes of shared memory");
  }
  constexpr int piece = 8, pieces = kPanel / piece;
  const HostThread now = HostThread::current();
  const CopySource& from = map.source;
  std::vector<S> box(map.box_rows * kPanel);
  for (int r = 0; r < map.box_rows; ++r) {
    const int64_t at[4] = {column, row + r, head, batch};
    for (int c = 0; c < kPanel; ++c) {
      bool inside = at[0] + c >= 0 && at[0] + c < from.size[0];
      int64_t entry = (at[0] + c) * from.stride[0];
      for (int d = 1; d < 4; ++d) {
        inside = inside && at[d] >= 0 && at[d] < from.size[d];
        entry += at[d] * from.stride[d];
      }
      box[r * kPanel + c] = inside ? static_cast<const S*>(from.data)[entry] : S{};
    }
    for (int p = 0; p < pieces; ++p) memory.begin_engine_copy(n + r * kPanel + p * piece, now);
  }
  barrier.copy(map.box_rows * kPanelBytes, [&memory, n, box](int id, int64_t phase) {
    for (size_t place = 0; place < box.size(); place += piece) {
      // of the address, bits 4 to 6 change with bits 7 to 9: each row has its pieces in another order
      const size_t bytes = place * sizeof(S), swizzled_bytes = bytes ^ (bytes >> 7 & 7) << 4;
      memory.end_engine_copy(n + static_cast<int>(swizzled_bytes / sizeof(S)), box.data() + place, id, phase);
    }
  });
}

}  // namespace seo_kernels::cuda
