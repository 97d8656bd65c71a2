// Where an op runs: the tensor's device and torch's current stream on it. Built with SK_HOST_EXECUTOR the device is the
// host, so that the kernels can be proved without a GPU.
#pragma once

#include <cstdlib>

#include "cuda/element.h"
#include "torch/matrices.h"

#if defined(SK_HOST_EXECUTOR)
#define SK_DISPATCH_KEY CPU
#else
#define SK_DISPATCH_KEY CUDA
#include <torch/csrc/stable/accelerator.h>

// Declared by torch's headers only where it was built with CUDA.
extern "C" AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index, void** stream);
#endif

namespace seo_kernels {

#if defined(SK_HOST_EXECUTOR)
struct DeviceScope {
  explicit DeviceScope(const Tensor&) {}
  cuda::Stream stream = nullptr;
};
#else
// The current device and stream, while this lives.
struct DeviceScope {
  explicit DeviceScope(const Tensor& tensor) : guard(tensor.get_device_index()) {
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
  }
  torch::stable::accelerator::DeviceGuard guard;
  cuda::Stream stream = nullptr;
};
#endif

// Whether values in tensors are checked: for that a device must be waited for.
inline bool checks_values() {
#if defined(SK_HOST_EXECUTOR)
  return true;
#else
  const char* asked = std::getenv("SEO_KERNELS_CHECK");
  return asked && std::string(asked) == "1";
#endif
}

// float64 accumulates in float64, all else in float32.
inline ScalarType device_acc_of(const Tensor& tensor) {
  return tensor.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline Tensor new_tensor(const Tensor& like, const std::vector<int64_t>& shape, ScalarType type, bool zero = false) {
  const torch::headeronly::IntHeaderOnlyArrayRef sizes(shape.data(), shape.size());
  return zero ? torch::stable::new_zeros(like, sizes, type) : torch::stable::new_empty(like, sizes, type);
}

}  // namespace seo_kernels
