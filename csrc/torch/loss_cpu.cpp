// Cross entropy, focal and Huber loss on the CPU: checks, allocation, registration.
#include <cmath>

#include "cpu/kernels.h"
#include "torch/loss_arguments.h"

namespace seo_kernels {
namespace {

const char* const kRowsOfClasses = "(rows, classes)";

// What forward and backward of the losses with one target class per row have in common.
struct ClassArguments {
  Tensor input, target;
  OptionalTensor weight;
  const char* weight_name;

  void prepare(cpu::ClassLossParams& p) {
    check_matrix(input, "input", kRowsOfClasses);
    p.rows = input.size(0);
    p.classes = input.size(1);
    p.input = matrix_of(input, "input");
    p.target = class_indices(target, p.rows, p.classes, p.ignore_index);
    p.weight = acc_vector(weight, weight_name, p.classes, acc_type_of(input));
  }
};

std::tuple<Tensor, Tensor> class_forward(ClassArguments a, cpu::ClassLossForwardParams p) {
  a.prepare(p);
  Tensor losses = make_tensor(a.input, {p.rows}, acc_type_of(a.input));
  Tensor lse = make_tensor(a.input, {p.rows, 2}, acc_type_of(a.input));
  p.losses = losses.data_ptr();
  p.lse = lse.data_ptr();
  over_items(p.rows, p.classes, [&](int64_t begin, int64_t end) { cpu::kernels().loss.class_forward(p, begin, end); });
  return {losses, lse};
}

Tensor class_backward(Tensor grad_losses, ClassArguments a, Tensor lse, const std::vector<bool>& wanted,
                      cpu::ClassLossBackwardParams p) {
  check_wanted(wanted, 1);
  a.prepare(p);
  p.grad_losses = acc_vector(grad_losses, "grad_losses", p.rows, acc_type_of(a.input));
  check_shape(lse, "lse", {p.rows, 2});
  lse = as_type(lse, acc_type_of(a.input));
  p.lse = lse.data_ptr();
  Tensor grad_input = new_gradient(a.input, wanted[0]);
  p.grad_input = grad_input.data_ptr();
  if (wanted[0]) {
    over_items(p.rows, p.classes,
               [&](int64_t begin, int64_t end) { cpu::kernels().loss.class_backward(p, begin, end); });
  }
  return grad_input;
}

template <class Params>
Params cross_entropy_params(int64_t ignore_index, double label_smoothing) {
  check_smoothing(label_smoothing);
  Params p{};
  p.ignore_index = ignore_index;
  p.label_smoothing = label_smoothing;
  return p;
}

std::tuple<Tensor, Tensor> cross_entropy_forward(Tensor input, Tensor target, OptionalTensor weight,
                                                 int64_t ignore_index, double label_smoothing) {
  return class_forward({input, target, weight, "weight"},
                       cross_entropy_params<cpu::ClassLossForwardParams>(ignore_index, label_smoothing));
}

Tensor cross_entropy_backward(Tensor grad_losses, Tensor input, Tensor target, OptionalTensor weight,
                              int64_t ignore_index, double label_smoothing, Tensor lse, std::vector<bool> wanted) {
  return class_backward(grad_losses, {input, target, weight, "weight"}, lse, wanted,
                        cross_entropy_params<cpu::ClassLossBackwardParams>(ignore_index, label_smoothing));
}

template <class Params>
Params focal_params(double gamma, int64_t ignore_index) {
  if (!(gamma >= 0.0) || !std::isfinite(gamma)) {
    throw std::invalid_argument("gamma is " + std::to_string(gamma) + ", expected a number of at least 0");
  }
  Params p{};
  p.focal = true;
  p.gamma = gamma;
  p.ignore_index = ignore_index;
  return p;
}

std::tuple<Tensor, Tensor> focal_loss_forward(Tensor input, Tensor target, OptionalTensor alpha, double gamma,
                                              int64_t ignore_index) {
  return class_forward({input, target, alpha, "alpha"}, focal_params<cpu::ClassLossForwardParams>(gamma, ignore_index));
}

Tensor focal_loss_backward(Tensor grad_losses, Tensor input, Tensor target, OptionalTensor alpha, double gamma,
                           int64_t ignore_index, Tensor lse, std::vector<bool> wanted) {
  return class_backward(grad_losses, {input, target, alpha, "alpha"}, lse, wanted,
                        focal_params<cpu::ClassLossBackwardParams>(gamma, ignore_index));
}

struct SoftArguments {
  Tensor input, target;
  OptionalTensor weight;
  double label_smoothing;

  void prepare(cpu::SoftLossParams& p) {
    check_smoothing(label_smoothing);
    check_matrix(input, "input", kRowsOfClasses);
    check_matrix(target, "target", kRowsOfClasses);
    check_shape(target, "target", {input.size(0), input.size(1)});
    p.rows = input.size(0);
    p.classes = input.size(1);
    p.input = matrix_of(input, "input");
    p.target = matrix_of(target, "target");
    p.weight = acc_vector(weight, "weight", p.classes, acc_type_of(input));
    p.label_smoothing = label_smoothing;
  }
};

std::tuple<Tensor, Tensor> soft_cross_entropy_forward(Tensor input, Tensor target, OptionalTensor weight,
                                                      double label_smoothing) {
  SoftArguments a{input, target, weight, label_smoothing};
  cpu::SoftLossForwardParams p{};
  a.prepare(p);
  Tensor losses = make_tensor(input, {p.rows}, acc_type_of(input));
  Tensor lse = make_tensor(input, {p.rows, 2}, acc_type_of(input));
  p.losses = losses.data_ptr();
  p.lse = lse.data_ptr();
  over_items(p.rows, p.classes, [&](int64_t begin, int64_t end) { cpu::kernels().loss.soft_forward(p, begin, end); });
  return {losses, lse};
}

std::tuple<Tensor, Tensor> soft_cross_entropy_backward(Tensor grad_losses, Tensor input, Tensor target,
                                                       OptionalTensor weight, double label_smoothing, Tensor lse,
                                                       std::vector<bool> wanted) {
  check_wanted(wanted, 2);
  SoftArguments a{input, target, weight, label_smoothing};
  cpu::SoftLossBackwardParams p{};
  a.prepare(p);
  p.grad_losses = acc_vector(grad_losses, "grad_losses", p.rows, acc_type_of(input));
  check_shape(lse, "lse", {p.rows, 2});
  lse = as_type(lse, acc_type_of(input));
  p.lse = lse.data_ptr();
  Tensor grad_input = new_gradient(input, wanted[0]), grad_target = new_gradient(target, wanted[1]);
  p.grad_input = wanted[0] ? grad_input.data_ptr() : nullptr;
  p.grad_target = wanted[1] ? grad_target.data_ptr() : nullptr;
  over_items(p.rows, p.classes, [&](int64_t begin, int64_t end) { cpu::kernels().loss.soft_backward(p, begin, end); });
  return {grad_input, grad_target};
}

struct HuberArguments {
  Tensor input, target;
  OptionalTensor weight;
  double delta;
  bool sums;

  ScalarType acc() const {
    const bool wide = acc_type_of(input) == ScalarType::Double || acc_type_of(target) == ScalarType::Double ||
                      (weight && acc_type_of(*weight) == ScalarType::Double);
    return wide ? ScalarType::Double : ScalarType::Float;
  }

  void prepare(cpu::HuberParams& p) {
    if (!(delta > 0.0) || !std::isfinite(delta)) {
      throw std::invalid_argument("delta is " + std::to_string(delta) + ", expected a number above 0");
    }
    check_matrix(input, "input", "(rows, columns)");
    check_matrix(target, "target", "(rows, columns)");
    p.rows = input.size(0);
    p.columns = input.size(1);
    check_shape(target, "target", {p.rows, p.columns});
    p.input = matrix_of(input, "input");
    p.target = matrix_of(target, "target");
    if (weight) {
      check_floating(*weight, "weight");
      check_shape(*weight, "weight", {p.rows, p.columns});
      p.weight = matrix_of(*weight, "weight");
    }
    p.acc = acc() == ScalarType::Double ? DType::kFloat64 : DType::kFloat32;
    p.delta = delta;
    p.sums = sums;
  }
};

Tensor huber_loss_forward(Tensor input, Tensor target, OptionalTensor weight, double delta, bool sums) {
  HuberArguments a{input, target, weight, delta, sums};
  cpu::HuberForwardParams p{};
  a.prepare(p);
  Tensor losses = make_tensor(input, {p.rows, sums ? p.blocks() : p.columns}, a.acc());
  p.losses = losses.data_ptr();
  over_items(p.rows * p.blocks(), std::min(p.columns, cpu::kHuberBlock),
             [&](int64_t begin, int64_t end) { cpu::kernels().loss.huber_forward(p, begin, end); });
  return losses;
}

std::tuple<Tensor, Tensor, Tensor> huber_loss_backward(Tensor grad_losses, Tensor input, Tensor target,
                                                       OptionalTensor weight, double delta, bool sums,
                                                       std::vector<bool> wanted) {
  check_wanted(wanted, 3);
  HuberArguments a{input, target, weight, delta, sums};
  cpu::HuberBackwardParams p{};
  a.prepare(p);
  check_shape(grad_losses, "grad_losses", {p.rows, sums ? p.blocks() : p.columns});
  grad_losses = as_type(grad_losses, a.acc());
  p.grad_losses = grad_losses.data_ptr();
  Tensor grad_input = new_gradient(input, wanted[0]), grad_target = new_gradient(target, wanted[1]);
  Tensor grad_weight = new_gradient(weight ? *weight : input, weight && wanted[2]);
  p.grad_input = wanted[0] ? grad_input.data_ptr() : nullptr;
  p.grad_target = wanted[1] ? grad_target.data_ptr() : nullptr;
  p.grad_weight = weight && wanted[2] ? grad_weight.data_ptr() : nullptr;
  over_items(p.rows * p.blocks(), std::min(p.columns, cpu::kHuberBlock),
             [&](int64_t begin, int64_t end) { cpu::kernels().loss.huber_backward(p, begin, end); });
  return {grad_input, grad_target, grad_weight};
}

}  // namespace
}  // namespace seo_kernels

STABLE_TORCH_LIBRARY_IMPL(seo_kernels, CPU, m) {
  m.impl("cross_entropy_forward", TORCH_BOX(&seo_kernels::cross_entropy_forward));
  m.impl("cross_entropy_backward", TORCH_BOX(&seo_kernels::cross_entropy_backward));
  m.impl("focal_loss_forward", TORCH_BOX(&seo_kernels::focal_loss_forward));
  m.impl("focal_loss_backward", TORCH_BOX(&seo_kernels::focal_loss_backward));
  m.impl("soft_cross_entropy_forward", TORCH_BOX(&seo_kernels::soft_cross_entropy_forward));
  m.impl("soft_cross_entropy_backward", TORCH_BOX(&seo_kernels::soft_cross_entropy_backward));
  m.impl("huber_loss_forward", TORCH_BOX(&seo_kernels::huber_loss_forward));
  m.impl("huber_loss_backward", TORCH_BOX(&seo_kernels::huber_loss_backward));
}
