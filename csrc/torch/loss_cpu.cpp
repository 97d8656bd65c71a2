// Cross entropy, focal and Huber loss on the CPU: the ops of loss_ops.h on torch's threads.
#include "cpu/kernels.h"
#include "torch/loss_ops.h"
#include "torch/new_tensor.h"
#include "torch/slots.h"

namespace seo_kernels {
namespace {

struct LossesOnCpu {
  explicit LossesOnCpu(const Tensor&) {}

  static Tensor make(const Tensor& like, const std::vector<int64_t>& shape, ScalarType type) {
    return make_tensor(like, shape, type);
  }
  void check_classes(const Tensor& target, int64_t classes, int64_t ignore_index) const {
    check_indices(static_cast<const int64_t*>(target.data_ptr()), target.numel(), classes, ignore_index);
  }

  void class_forward(const ClassLossForwardParams& p) const { over_rows(p, kernels.class_forward); }
  void class_backward(const ClassLossBackwardParams& p) const { over_rows(p, kernels.class_backward); }
  void soft_forward(const SoftLossForwardParams& p) const { over_rows(p, kernels.soft_forward); }
  void soft_backward(const SoftLossBackwardParams& p) const { over_rows(p, kernels.soft_backward); }
  void huber_forward(const HuberForwardParams& p) const { over_blocks(p, kernels.huber_forward); }
  void huber_backward(const HuberBackwardParams& p) const { over_blocks(p, kernels.huber_backward); }

 private:
  template <class Params>
  static void over_rows(const Params& p, void (*run)(const Params&, int64_t, int64_t)) {
    over_items(p.rows, p.classes, [&](int64_t begin, int64_t end) { run(p, begin, end); });
  }
  template <class Params>
  static void over_blocks(const Params& p, void (*run)(const Params&, int64_t, int64_t)) {
    over_items(p.rows * p.blocks(), std::min(p.columns, kHuberBlock),
               [&](int64_t begin, int64_t end) { run(p, begin, end); });
  }

  const cpu::LossKernels& kernels = cpu::kernels().loss;
};

}  // namespace
}  // namespace seo_kernels

STABLE_TORCH_LIBRARY_IMPL(seo_kernels, CPU, m) { seo_kernels::register_loss_ops<seo_kernels::LossesOnCpu>(m); }
