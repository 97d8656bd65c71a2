#include "cuda/device_limits.h"

namespace seo_kernels::cuda {

#if defined(__CUDACC__)
DeviceLimits device_limits() {
  int device, major, minor, bytes;
  check(cudaGetDevice(&device), "device_limits");
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "device_limits");
  check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), "device_limits");
  check(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), "device_limits");
  return {major, minor, bytes};
}
#else
DeviceLimits device_limits() { return {8, 0, INT64_MAX}; }
#endif

}  // namespace seo_kernels::cuda
