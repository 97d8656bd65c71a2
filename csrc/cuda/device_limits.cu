#include "cuda/device_limits.h"

namespace seo_kernels::cuda {

#if defined(__CUDACC__)
DeviceLimits device_limits() {
  int device, major, minor, bytes, cache;
  check(cudaGetDevice(&device), "attention");
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "attention");
  check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), "attention");
  check(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), "attention");
  check(cudaDeviceGetAttribute(&cache, cudaDevAttrL2CacheSize, device), "attention");
  return {major, minor, bytes, cache};
}
#else
// A cache so small that small problems do not fit.
DeviceLimits device_limits() { return {9, 0, INT64_MAX, 64 << 10}; }
#endif

}  // namespace seo_kernels::cuda
