#include "cuda/device_limits.h"

namespace seo_kernels::cuda {

#if defined(__CUDACC__)
DeviceLimits device_limits() {
  int device, major, minor, bytes, cache, multiprocessors;
  check(cudaGetDevice(&device), "device_limits");
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "device_limits");
  check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), "device_limits");
  check(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), "device_limits");
  check(cudaDeviceGetAttribute(&cache, cudaDevAttrL2CacheSize, device), "device_limits");
  check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device), "device_limits");
  return {major, minor, bytes, cache, multiprocessors};
}
#else
// A cache so small that small problems do not fit, and so few multiprocessors that blocks go on to further tiles.
DeviceLimits device_limits() { return {9, 0, INT64_MAX, 64 << 10, 3}; }
#endif

}  // namespace seo_kernels::cuda
