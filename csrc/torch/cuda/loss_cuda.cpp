// Cross entropy, focal and Huber loss on the GPU: the ops of loss_ops.h on the current stream.
#include "cuda/loss.h"
#include "torch/cuda/device.h"
#include "torch/cuda/loss_targets.h"
#include "torch/loss_ops.h"

namespace seo_kernels {
namespace {

struct LossesOnGpu {
  explicit LossesOnGpu(const Tensor& like) : device(like) {}

  static Tensor make(const Tensor& like, const std::vector<int64_t>& shape, ScalarType type) {
    return new_tensor(like, shape, type);
  }
  void check_classes(const Tensor& target, int64_t classes, int64_t ignore_index) const {
    check_target_values(target, classes, ignore_index);
  }

  void class_forward(const ClassLossForwardParams& p) const { cuda::class_loss_forward(p, nullptr, device.stream); }
  void class_backward(const ClassLossBackwardParams& p) const {
    const MatrixView grad_input{p.grad_input, p.input.dtype, p.rows, p.classes, p.classes, 1};
    cuda::class_loss_backward(p, {nullptr, 0, grad_input}, device.stream);
  }
  void soft_forward(const SoftLossForwardParams& p) const { cuda::soft_loss_forward(p, device.stream); }
  void soft_backward(const SoftLossBackwardParams& p) const { cuda::soft_loss_backward(p, device.stream); }
  void huber_forward(const HuberForwardParams& p) const { cuda::huber_forward(p, device.stream); }
  void huber_backward(const HuberBackwardParams& p) const { cuda::huber_backward(p, device.stream); }

  DeviceScope device;
};

}  // namespace
}  // namespace seo_kernels

STABLE_TORCH_LIBRARY_IMPL(seo_kernels, SK_DISPATCH_KEY, m) {
  seo_kernels::register_loss_ops<seo_kernels::LossesOnGpu>(m);
}
