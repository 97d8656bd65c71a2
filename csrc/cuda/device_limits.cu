#include "cuda/device_limits.h"

namespace seo_kernels::cuda {

#if defined(__CUDACC__)
DeviceLimits device_limits() {
  int device, major, minor, bytes, cache;
  check(cudaGetDevice(&device), "device_limits");
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "device_limits");
  check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), "device_limits");
  check(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), "device_limits");
  check(cudaDeviceGetAttribute(&cache, cudaDevAttrL2CacheSize, device), "device_limits");
  return {major, minor, bytes, cache};
}
int64_t multiprocessors() {
  int device, count;
  check(cudaGetDevice(&device), "device_limits");
  check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device), "device_limits");
  return count;
}
#else
// A cache so small that small problems do not fit.
DeviceLimits device_limits() { return {9, 0, INT64_MAX, 64 << 10}; }
int64_t multiprocessors() { return 3; }  // so that blocks go on to further tiles
#endif

}  // namespace seo_kernels::cuda
