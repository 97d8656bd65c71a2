// The executor's device side; see executor.h.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <stdexcept>
#include <string>

#define SK_DEVICE __device__
#define SK_OUTLINED_ON_HOST __device__ __forceinline__

namespace seo_kernels::cuda {

using Stream = void*;

// What follows from x is computed anew from here on: in long loops registers are worth more than a few multiplications.
SK_DEVICE inline void compute_anew_from(int& x) { asm volatile("" : "+r"(x)); }

// N neighbouring entries of shared memory.
template <class T, int N>
struct alignas(16) Pack {
  T at[N];
};

template <class T, int N>
class SharedArray {
 public:
  SK_DEVICE T& operator[](int n) { return values_[n]; }

  // Entries n, n+1, ... in accesses of 16 bytes; n is a multiple of their number.
  template <int K>
  SK_DEVICE Pack<T, K> pack(int n) {
    return *reinterpret_cast<const Pack<T, K>*>(values_ + n);
  }
  template <int K>
  SK_DEVICE void set_pack(int n, const Pack<T, K>& pack) {
    *reinterpret_cast<Pack<T, K>*>(values_ + n) = pack;
  }
  // Entries n and n + 1 of 2 bytes, the first in the low half; n is even.
  SK_DEVICE void set_pair(int n, uint32_t pair) {
    static_assert(sizeof(T) == 2);
    *reinterpret_cast<uint32_t*>(values_ + n) = pair;
  }
  SK_DEVICE T* address(int n) { return values_ + n; }

 private:
  alignas(16) T values_[N];
};

// A value that each thread has of its own across phases.
template <class T>
class PerThread {
 public:
  SK_DEVICE T& operator[](int) { return value_; }

 private:
  T value_{};
};

template <class Shared>
class Block {
 public:
  SK_DEVICE explicit Block(Shared& shared) : shared_(shared) {}

  SK_DEVICE int64_t index() const { return blockIdx.x; }
  SK_DEVICE Shared& shared() { return shared_; }
  SK_DEVICE static int thread() { return static_cast<int>(threadIdx.x); }

  // Calls f(thread) for all threads of the block.
  template <class F>
  SK_DEVICE void for_threads(F f) {
    f(thread());
  }

  SK_DEVICE void sync() { __syncthreads(); }
  // A barrier for the threads of each warp.
  SK_DEVICE void sync_warp() { __syncwarp(); }

  // value = f over the values of Width neighbouring threads, or of every First-th one, for each of them; f's order is
  // theirs to choose. All threads come here.
  template <int Width, int First = 1, class V, class F>
  SK_DEVICE void combine(PerThread<V>& value, F f) {
    static_assert(First * Width <= 32);
    V& mine = value[0];
#pragma unroll
    for (int distance = First; distance < First * Width; distance *= 2) mine = f(mine, of_neighbour(mine, distance));
  }

  // Whether this is the last of `total` blocks to come here; what the others wrote before is then visible. The counter
  // begins at zero and ends there. `flag`: a shared int.
  template <class Flag>
  SK_DEVICE bool arrives_last(unsigned* counter, unsigned total, Flag& flag) {
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
      const bool last = atomicAdd(counter, 1u) + 1 == total;
      if (last) *counter = 0;
      flag[0] = last;
    }
    __syncthreads();
    __threadfence();
    return flag[0] != 0;
  }

  // What the counter was before it grew by one. By one thread.
  SK_DEVICE static unsigned take(unsigned* counter) { return atomicAdd(counter, 1u); }

 private:
  template <class V>
  SK_DEVICE static V of_neighbour(const V& mine, int distance) {
    static_assert(sizeof(V) % 4 == 0);
    V other;
#pragma unroll
    for (size_t n = 0; n < sizeof(V) / 4; ++n) {
      const unsigned word = reinterpret_cast<const unsigned*>(&mine)[n];
      reinterpret_cast<unsigned*>(&other)[n] = __shfl_xor_sync(~0u, word, distance);
    }
    return other;
  }

  Shared& shared_;
};

// A kernel may say how many blocks are to fit a multiprocessor at once: its threads get no more registers than that.
template <class Kernel>
constexpr int blocks_at_once() {
  if constexpr (requires { Kernel::kBlocksAtOnce; }) {
    return Kernel::kBlocksAtOnce;
  } else {
    return 1;
  }
}

// Threads, bytes of shared memory and blocks at once stand in the name for those who read what the compiler made
// (benchmarks/cuda_static.py).
template <class Kernel, int kThreads = Kernel::kThreads, size_t kSharedBytes = sizeof(typename Kernel::Shared),
          int kBlocks = blocks_at_once<Kernel>()>
__global__ void __launch_bounds__(kThreads, kBlocks) run_blocks(const __grid_constant__ Kernel kernel) {
  extern __shared__ __align__(1024) unsigned char memory[];  // as the copy engine's swizzled tiles need
  Block<typename Kernel::Shared> block(*reinterpret_cast<typename Kernel::Shared*>(memory));
  kernel(block);
}

inline void check(cudaError_t status, const char* op) {
  if (status == cudaSuccess) return;
  throw std::runtime_error(std::string(op) + ": CUDA: " + cudaGetErrorString(status));
}

// Zero, before what is launched later.
inline void clear(unsigned* counter, Stream stream, const char* op) {
  check(cudaMemsetAsync(counter, 0, sizeof(*counter), static_cast<cudaStream_t>(stream)), op);
}

template <class Kernel>
void launch(const Kernel& kernel, int64_t blocks, Stream stream, const char* op) {
  if (blocks == 0) return;
  constexpr size_t kDefaultBytes = 48 << 10, bytes = sizeof(typename Kernel::Shared);
  if constexpr (bytes > kDefaultBytes) {
    check(cudaFuncSetAttribute(run_blocks<Kernel>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes), op);
  }
  run_blocks<<<static_cast<unsigned>(blocks), Kernel::kThreads, bytes, static_cast<cudaStream_t>(stream)>>>(kernel);
  check(cudaGetLastError(), op);
}

}  // namespace seo_kernels::cuda
