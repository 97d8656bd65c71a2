// Products of a warpgroup on the host: what wgmma does with descriptors, bit by bit. Results land when they are waited
// for; until then their registers are NaN, and what the products read may not be overwritten.
#pragma once

#include <list>
#include <map>
#include <set>

#include "cuda/sm90/host_barrier.h"

namespace seo_kernels::cuda {

// Where arrays would lie in a multiprocessor's shared memory, which has 18 bits of address: one after the other as they
// are first named.
class HostAddresses {
 public:
  struct Place {
    uint32_t address, bytes;
    const void* array;
    std::function<Pack<uint16_t, 8>(int, const HostThread&, int64_t)> begin_read;
    std::function<void(int, const HostThread&, int64_t)> end_read;
  };

  // Those of the block that this thread is part of.
  static HostAddresses*& current() {
    static thread_local HostAddresses* addresses = nullptr;
    return addresses;
  }

  template <class Memory>
  uint32_t of(Memory& memory, int entry) {
    for (const Place& place : places_) {
      if (place.array == &memory) return place.address + 2 * entry;
    }
    if (reinterpret_cast<uintptr_t>(memory.data()) % kSwizzleBytes != 0) {
      throw std::logic_error("an operand of products lies in an array that is no SwizzledArray");
    }
    const uint32_t bytes = 2 * Memory::kEntries, address = next_;
    next_ += (bytes + kSwizzleBytes - 1) / kSwizzleBytes * kSwizzleBytes;
    if (next_ > 1u << 18) throw std::logic_error("operands of products take more than 256 KiB of shared memory");
    places_.push_back(
        {address, bytes, &memory,
         [&memory](int n, const HostThread& now, int64_t batch) {
           return bits_as<Pack<uint16_t, 8>>(memory.begin_engine_read(n, now, batch));
         },
         [&memory](int n, const HostThread& now, int64_t batch) { memory.end_engine_read(n, now, batch); }});
    return address + 2 * entry;
  }

  const Place& at(uint32_t address) const {
    for (const Place& place : places_) {
      if (address >= place.address && address < place.address + place.bytes) return place;
    }
    throw std::logic_error("an operand of products reaches beyond its array: address " + std::to_string(address));
  }

 private:
  std::list<Place> places_;  // reads that are under way point to them
  uint32_t next_ = kSwizzleBytes;
};

template <class Memory>
uint32_t shared_address(Memory& memory, int entry) {
  return HostAddresses::current()->of(memory, entry);
}

// to (64, n) += left (64, 16) . right (16, n). In bounds by construction, and most of the time that tests take.
__attribute__((noinline, optimize("O3"), no_sanitize("address", "undefined"))) inline void multiply_matrices(
    float* to, const float* left, const float* right, int n) {
  for (int row = 0; row < kGroupRows; ++row) {
    for (int k = 0; k < kStep; ++k) {
      const float factor = left[row * kStep + k];
      for (int column = 0; column < n; ++column) to[row * n + column] += factor * right[k * n + column];
    }
  }
}

// Where entry e of Product n of a thread lies in 64 rows.
inline int host_row(int thread, int e) { return thread / kWarp * 16 + Lane(thread % kWarp).row + e / 2 * 8; }
inline int host_column(int thread, int n, int e) { return 8 * n + Lane(thread).column + e % 2; }

class HostProducts {
 public:
  void begin(const std::set<const void*>& sums) {
    if (begun_) throw std::logic_error("begin_products within a batch of products");
    begun_ = true;
    named_ = sums;
  }

  void commit() {
    if (!begun_) throw std::logic_error("commit_products without begin_products");
    begun_ = false;
    ++committed_;
  }

  void wait(int late, const std::set<const void*>& sums) {
    if (begun_) throw std::logic_error("products are waited for before they are committed");
    const int64_t last = committed_ - late;
    for (auto at = in_flight_.begin(); at != in_flight_.end();) {
      Sums& landing = at->second;
      if (landing.batch > last) {
        ++at;
        continue;
      }
      if (!sums.count(landing.owner)) throw std::logic_error("products land in sums that the wait does not name");
      landing.land(landing.values);
      at = in_flight_.erase(at);
    }
    std::vector<Read> rest;
    for (const Read& read : reads_) {
      read.batch > last ? rest.push_back(read) : read.place->end_read(read.entry, HostThread::current(), read.batch);
    }
    reads_.swap(rest);
  }

  void check_done() const {
    if (begun_ || !in_flight_.empty()) throw std::logic_error("a kernel ends with products under way");
  }

  template <Major kMajor, class S>
  void read_operand(Operand operand, int outer, float* to, int outer_stride, int inner_stride) {
    const uint64_t bits = operand.descriptor;
    const auto field = [&](int at, uint64_t mask) { return static_cast<uint32_t>(bits >> at & mask); };
    if (field(62, 3) != 1) throw std::logic_error("an operand's swizzle is not that of 128 bytes");
    if (field(49, 7) != 0 || (bits & 0x3FF1C000C000C000) != 0) throw std::logic_error("an operand has further bits");
    const uint32_t start = field(0, 0x3FFF) << 4, leading = field(16, 0x3FFF) << 4, stride = field(32, 0x3FFF) << 4;
    if (start & (kMajor == Major::kInner ? 0x380 : 0x3FF)) {
      throw std::logic_error("an operand begins within the swizzle's pattern, at address " + std::to_string(start));
    }
    // PTX ISA, "Strides": rows of 128 bytes in groups of 8, `stride` apart; beyond 64 columns, `leading` apart
    for (int o = 0; o < outer; o += kMajor == Major::kInner ? 1 : 8) {
      for (int k = 0; k < kStep; k += kMajor == Major::kInner ? 8 : 1) {
        uint32_t address = start;
        if constexpr (kMajor == Major::kInner) {
          address += o / 8 * stride + o % 8 * kPanelBytes + 2 * k;
        } else {
          address += o / kPanel * leading + o % kPanel * 2 + k / 8 * stride + k % 8 * kPanelBytes;
        }
        address ^= (address >> 7 & 7) << 4;
        const HostAddresses::Place& place = HostAddresses::current()->at(address);
        const int entry = static_cast<int>(address - place.address) / 2;
        const auto piece = place.begin_read(entry, HostThread::current(), committed_ + 1);
        reads_.push_back({committed_ + 1, entry, &place});
        for (int e = 0; e < 8; ++e) {
          const int oo = kMajor == Major::kInner ? o : o + e, kk = kMajor == Major::kInner ? k + e : k;
          to[oo * outer_stride + kk * inner_stride] = widen(S{piece.at[e]});
        }
      }
    }
  }

  template <int M, int N>
  void add(PerThread<Tile<M, N>>& sums, int m, const float* left, const float* right, bool add) {
    if (!begun_ || !named_.count(&sums)) throw std::logic_error("products with sums that begin_products does not name");
    const auto [at, fresh] = in_flight_.try_emplace(sums[0].at[m]);
    Sums& flying = at->second;
    if (fresh) {
      flying.owner = &sums;
      flying.values.resize(kGroupRows * 8 * N);
      for_entries<N>([&](int thread, int n, int e, int place) {
        float& entry = sums[thread].at[m][n].at[e];
        flying.values[place] = entry;
        std::memset(&entry, 0xFF, sizeof(entry));
      });
      flying.land = [&sums, m](const std::vector<float>& values) {
        for_entries<N>([&](int thread, int n, int e, int place) {
          float& entry = sums[thread].at[m][n].at[e];
          if (bits_as<uint32_t>(entry) != ~0u)
            throw std::logic_error("sums were touched while products were under way");
          entry = values[place];
        });
      };
    }
    flying.batch = committed_ + 1;
    if (!add) std::fill(flying.values.begin(), flying.values.end(), 0.0f);
    multiply_matrices(flying.values.data(), left, right, 8 * N);
  }

 private:
  struct Sums {
    const void* owner;
    std::vector<float> values;
    int64_t batch;
    std::function<void(const std::vector<float>&)> land;
  };
  struct Read {
    int64_t batch;
    int entry;
    const HostAddresses::Place* place;
  };

  template <int N, class F>
  static void for_entries(F f) {
    for (int thread = 0; thread < kGroupThreads; ++thread) {
      for (int n = 0; n < N; ++n) {
        for (int e = 0; e < 4; ++e) f(thread, n, e, host_row(thread, e) * 8 * N + host_column(thread, n, e));
      }
    }
  }

  std::map<const void*, Sums> in_flight_;
  std::vector<Read> reads_;
  std::set<const void*> named_;
  bool begun_ = false;
  int64_t committed_ = 0;  // batches
};

template <int K>
void settle(PerThread<Fragment> (&)[K]) {}

template <class Group, class... Sums>
void begin_products(Group& group, Sums&... sums) {
  group.products().begin({&sums...});
}
template <class Group>
void commit_products(Group& group) {
  group.products().commit();
}
template <int Late, class Group, class... Sums>
void wait_for_products(Group& group, Sums&... sums) {
  group.products().wait(Late, {&sums...});
}

constexpr bool is_product_width(int n) {
  return n == 8 || n == 16 || n == 32 || n == 64 || n == 96 || n == 128 || n == 192 || n == 256;
}

template <class S, Major MajorLeft, Major MajorRight, class Group, int M, int N>
void multiply_operands(Group& group, PerThread<Tile<M, N>>& sums, int m, Operand left, Operand right, bool add) {
  static_assert(is_product_width(8 * N));
  float lefts[kGroupRows * kStep], rights[kStep * 8 * N];
  group.products().template read_operand<MajorLeft, S>(left, kGroupRows, lefts, kStep, 1);
  group.products().template read_operand<MajorRight, S>(right, 8 * N, rights, 1, 8 * N);
  group.products().add(sums, m, lefts, rights, add);
}

template <class S, Major MajorRight, class Group, int M, int N>
void multiply_operands(Group& group, PerThread<Tile<M, N>>& sums, int m, PerThread<Fragment>& left, Operand right,
                       bool add) {
  static_assert(is_product_width(8 * N));
  float lefts[kGroupRows * kStep], rights[kStep * 8 * N];
  for (int thread = 0; thread < kGroupThreads; ++thread) {
    for (int r = 0; r < 4; ++r) {
      for (int half = 0; half < 2; ++half) {
        const int row = thread / kWarp * 16 + Lane(thread).row + r % 2 * 8, k = Lane(thread).column + r / 2 * 8 + half;
        lefts[row * kStep + k] = entry_of<S>(left[thread].at[r], half);
      }
    }
  }
  group.products().template read_operand<MajorRight, S>(right, 8 * N, rights, 1, 8 * N);
  group.products().add(sums, m, lefts, rights, add);
}

}  // namespace seo_kernels::cuda
