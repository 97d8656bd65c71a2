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

template <class T, int N>
class SharedArray {
 public:
  SK_DEVICE T& operator[](int n) { return values_[n]; }

 private:
  T values_[N];
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

  // Calls f(thread) for all threads of the block.
  template <class F>
  SK_DEVICE void for_threads(F f) {
    f(static_cast<int>(threadIdx.x));
  }

  SK_DEVICE void sync() { __syncthreads(); }

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

 private:
  Shared& shared_;
};

// Threads and bytes of shared memory stand in the name for those who read what the compiler made
// (benchmarks/cuda_static.py).
template <class Kernel, int kThreads = Kernel::kThreads, size_t kSharedBytes = sizeof(typename Kernel::Shared)>
__global__ void __launch_bounds__(kThreads) run_blocks(const __grid_constant__ Kernel kernel) {
  extern __shared__ __align__(16) unsigned char memory[];
  Block<typename Kernel::Shared> block(*reinterpret_cast<typename Kernel::Shared*>(memory));
  kernel(block);
}

inline void check(cudaError_t status, const char* op) {
  if (status == cudaSuccess) return;
  throw std::runtime_error(std::string(op) + ": CUDA: " + cudaGetErrorString(status));
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
