#include "cuda/graph_capture.h"

namespace seo_kernels::cuda {

#if defined(__CUDACC__)
bool is_captured(Stream stream) {
  cudaStreamCaptureStatus status;
  check(cudaStreamIsCapturing(static_cast<cudaStream_t>(stream), &status), "attention");
  return status != cudaStreamCaptureStatusNone;
}
#else
bool is_captured(Stream) { return false; }
#endif

}  // namespace seo_kernels::cuda
