// Tensors as kernels see them: a pointer, a dtype and strides.
#pragma once

#include <cstdint>

namespace seo_kernels {

enum class DType : int32_t { kFloat64, kFloat32, kBFloat16, kFloat16, kBool };

// A 4-D tensor of any strides (in elements); a stride of 0 broadcasts.
struct TensorView {
  void* data = nullptr;
  DType dtype = DType::kFloat32;
  int64_t stride[4] = {0, 0, 0, 0};

  constexpr explicit operator bool() const { return data != nullptr; }
};

}  // namespace seo_kernels
