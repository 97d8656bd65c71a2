// What the current device has, for the choice of kernels.
#pragma once

#include <cstdint>

#include "cuda/executor.h"

namespace seo_kernels::cuda {

struct DeviceLimits {
  int major, minor;      // compute capability
  int64_t shared_bytes;  // of one block, at most
  int64_t cache_bytes;   // of the cache that all multiprocessors share
};

DeviceLimits device_limits();

int64_t multiprocessors();

}  // namespace seo_kernels::cuda
