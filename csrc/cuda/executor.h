// Where kernels run: one source for the threads of a GPU and for loops on the host.
//
//   struct Kernel {
//     static constexpr int kThreads = 256;
//     struct Shared { SharedArray<float, 256> sums; };
//     Params p;
//     template <class Block>
//     SK_DEVICE void operator()(Block& block) const {
//       PerThread<float> value = ...;
//       block.for_threads([&](int thread) { block.shared().sums[thread] = value[thread]; });
//       block.sync();
//       ...
//     }
//   };
//   launch(Kernel{p}, blocks, stream, "name_of_the_op");
//
// A kernel is a sequence of phases, each run by all threads of a block. Threads meet at sync() only: what one thread
// writes to shared memory, another may read after it. The host checks that: it runs a phase's threads one after the
// other, remembers who touched what since the last sync(), and throws where two threads meet without one, or an index
// is out of range. Shared memory begins as NaN there. Nothing here knows tensors.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#include "cuda/device_executor.h"
#else
#include "cuda/host_executor.h"
#endif
