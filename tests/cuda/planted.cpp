// Kernels with and without a mistake each, run by the host executor: planted KIND prints what it computed.
#include <cstdio>
#include <cstring>
#include <vector>

#include "cuda/executor.h"

using namespace seo_kernels::cuda;

namespace {

constexpr int kThreads = 64;
enum class Mistake { kNone, kNoBarrier, kOverwrite, kSharedIndex, kTileBound };

// out[n] = in[n] + in of the thread opposite
struct AddOpposite {
  static constexpr int kThreads = ::kThreads;
  struct Shared {
    SharedArray<float, ::kThreads> values;
  };
  const float* in;
  float* out;
  int64_t count;
  Mistake mistake;

  template <class Block>
  SK_DEVICE void operator()(Block& block) const {
    const int64_t begin = block.index() * kThreads;
    const int64_t end = mistake == Mistake::kTileBound ? begin + kThreads : count;
    PerThread<float> own;
    block.for_threads([&](int thread) {
      own[thread] = begin + thread < end ? in[begin + thread] : 0.0f;
      block.shared().values[mistake == Mistake::kSharedIndex ? thread + 1 : thread] = own[thread];
    });
    if (mistake != Mistake::kNoBarrier) block.sync();
    block.for_threads([&](int thread) {
      const float sum = own[thread] + block.shared().values[kThreads - 1 - thread];
      if (mistake == Mistake::kOverwrite) block.shared().values[thread] = sum;
      if (begin + thread < end) out[begin + thread] = sum;
    });
  }
};

}  // namespace

int main(int, char** arguments) {
  const char* names[] = {"none", "no-barrier", "overwrite", "shared-index", "tile-bound"};
  int mistake = 0;
  while (std::strcmp(arguments[1], names[mistake]) != 0) ++mistake;
  constexpr int64_t count = 100;
  std::vector<float> in(count, 1.0f), out(count);
  for (int64_t n = 0; n < count; ++n) in[n] = static_cast<float>(n);
  try {
    launch(AddOpposite{in.data(), out.data(), count, static_cast<Mistake>(mistake)}, 2, nullptr, "add_opposite");
  } catch (const std::logic_error& error) {
    std::printf("caught: %s\n", error.what());
    return 1;
  }
  std::printf("%g %g %g\n", out[0], out[5], out[99]);
}
