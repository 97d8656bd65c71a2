#include "cuda/device_limits.h"

namespace seo_kernels::cuda {

#if defined(__CUDACC__)
DeviceLimits device_limits() {
  int device, major, minor, bytes;
  check(cudaGetDevice(&device), "attention");
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "attention");
  check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), "attention");
  check(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), "attention");
  return {major, minor, bytes};
}
#else
DeviceLimits device_limits() { return {9, 0, INT64_MAX}; }
#endif

}  // namespace seo_kernels::cuda
