// Cross entropy, focal and Huber loss as ops, the same for every device: checks, allocation, registration.
//
// A device is a class
//   Device(like)                                         the device of a tensor, chosen while this lives
//   static Tensor make(like, shape, type)                a new tensor there
//   void check_classes(target, classes, ignore_index)    throws where a class index is out of range and may be looked
//   at void class_forward(params), class_backward(params), soft_forward(params), ...   one per kernel
#pragma once

#include "torch/loss_arguments.h"

namespace seo_kernels {
namespace {

constexpr const char* kRowsOfClasses = "(rows, classes)";

template <class Device>
class LossOps {
 public:
  static std::tuple<Tensor, Tensor> cross_entropy_forward(Tensor input, Tensor target, OptionalTensor weight,
                                                          int64_t ignore_index, double label_smoothing) {
    return class_forward({input, target, weight, "weight"},
                         cross_entropy_params<ClassLossForwardParams>(ignore_index, label_smoothing));
  }

  static Tensor cross_entropy_backward(Tensor grad_losses, Tensor input, Tensor target, OptionalTensor weight,
                                       int64_t ignore_index, double label_smoothing, Tensor lse,
                                       std::vector<bool> wanted) {
    return class_backward(grad_losses, {input, target, weight, "weight"}, lse, wanted,
                          cross_entropy_params<ClassLossBackwardParams>(ignore_index, label_smoothing));
  }

  static std::tuple<Tensor, Tensor> focal_loss_forward(Tensor input, Tensor target, OptionalTensor alpha, double gamma,
                                                       int64_t ignore_index) {
    return class_forward({input, target, alpha, "alpha"}, focal_params<ClassLossForwardParams>(gamma, ignore_index));
  }

  static Tensor focal_loss_backward(Tensor grad_losses, Tensor input, Tensor target, OptionalTensor alpha, double gamma,
                                    int64_t ignore_index, Tensor lse, std::vector<bool> wanted) {
    return class_backward(grad_losses, {input, target, alpha, "alpha"}, lse, wanted,
                          focal_params<ClassLossBackwardParams>(gamma, ignore_index));
  }

  static std::tuple<Tensor, Tensor> soft_cross_entropy_forward(Tensor input, Tensor target, OptionalTensor weight,
                                                               double label_smoothing) {
    SoftArguments a{input, target, weight, label_smoothing};
    SoftLossForwardParams p{};
    a.prepare(p);
    Tensor losses = Device::make(input, {p.rows}, acc_type_of(input));
    Tensor lse = Device::make(input, {p.rows, 2}, acc_type_of(input));
    p.losses = losses.data_ptr();
    p.lse = lse.data_ptr();
    Device(input).soft_forward(p);
    return {losses, lse};
  }

  static std::tuple<Tensor, Tensor> soft_cross_entropy_backward(Tensor grad_losses, Tensor input, Tensor target,
                                                                OptionalTensor weight, double label_smoothing,
                                                                Tensor lse, std::vector<bool> wanted) {
    check_wanted(wanted, 2);
    SoftArguments a{input, target, weight, label_smoothing};
    SoftLossBackwardParams p{};
    a.prepare(p);
    p.grad_losses = acc_vector(grad_losses, "grad_losses", p.rows, acc_type_of(input));
    check_shape(lse, "lse", {p.rows, 2});
    lse = as_type(lse, acc_type_of(input));
    p.lse = lse.data_ptr();
    Tensor grad_input = gradient(input, wanted[0]), grad_target = gradient(target, wanted[1]);
    p.grad_input = wanted[0] ? grad_input.data_ptr() : nullptr;
    p.grad_target = wanted[1] ? grad_target.data_ptr() : nullptr;
    Device(input).soft_backward(p);
    return {grad_input, grad_target};
  }

  static Tensor huber_loss_forward(Tensor input, Tensor target, OptionalTensor weight, double delta, bool sums) {
    HuberArguments a{input, target, weight, delta, sums};
    HuberForwardParams p{};
    a.prepare(p);
    Tensor losses = Device::make(input, {p.rows, sums ? p.blocks() : p.columns}, a.acc());
    p.losses = losses.data_ptr();
    Device(input).huber_forward(p);
    return losses;
  }

  static std::tuple<Tensor, Tensor, Tensor> huber_loss_backward(Tensor grad_losses, Tensor input, Tensor target,
                                                                OptionalTensor weight, double delta, bool sums,
                                                                std::vector<bool> wanted) {
    check_wanted(wanted, 3);
    HuberArguments a{input, target, weight, delta, sums};
    HuberBackwardParams p{};
    a.prepare(p);
    check_shape(grad_losses, "grad_losses", {p.rows, sums ? p.blocks() : p.columns});
    grad_losses = as_type(grad_losses, a.acc());
    p.grad_losses = grad_losses.data_ptr();
    Tensor grad_input = gradient(input, wanted[0]), grad_target = gradient(target, wanted[1]);
    Tensor grad_weight = gradient(weight ? *weight : input, weight && wanted[2]);
    p.grad_input = wanted[0] ? grad_input.data_ptr() : nullptr;
    p.grad_target = wanted[1] ? grad_target.data_ptr() : nullptr;
    p.grad_weight = weight && wanted[2] ? grad_weight.data_ptr() : nullptr;
    Device(input).huber_backward(p);
    return {grad_input, grad_target, grad_weight};
  }

 private:
  // What forward and backward of the losses with one target class per row have in common.
  struct ClassArguments {
    Tensor input, target;
    OptionalTensor weight;
    const char* weight_name;

    void prepare(ClassLossParams& p) {
      check_matrix(input, "input", kRowsOfClasses);
      p.rows = input.size(0);
      p.classes = input.size(1);
      p.input = matrix_of(input, "input");
      p.target = class_indices(target, p.rows);
      Device(input).check_classes(target, p.classes, p.ignore_index);
      p.weight = acc_vector(weight, weight_name, p.classes, acc_type_of(input));
    }
  };

  struct SoftArguments {
    Tensor input, target;
    OptionalTensor weight;
    double label_smoothing;

    void prepare(SoftLossParams& p) {
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

    void prepare(HuberParams& p) {
      check_delta(delta);
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

  template <class Params>
  static Params cross_entropy_params(int64_t ignore_index, double label_smoothing) {
    check_smoothing(label_smoothing);
    Params p{};
    p.ignore_index = ignore_index;
    p.label_smoothing = label_smoothing;
    return p;
  }

  template <class Params>
  static Params focal_params(double gamma, int64_t ignore_index) {
    check_gamma(gamma);
    Params p{};
    p.focal = true;
    p.gamma = gamma;
    p.ignore_index = ignore_index;
    return p;
  }

  static std::tuple<Tensor, Tensor> class_forward(ClassArguments a, ClassLossForwardParams p) {
    a.prepare(p);
    Tensor losses = Device::make(a.input, {p.rows}, acc_type_of(a.input));
    Tensor lse = Device::make(a.input, {p.rows, 2}, acc_type_of(a.input));
    p.losses = losses.data_ptr();
    p.lse = lse.data_ptr();
    Device(a.input).class_forward(p);
    return {losses, lse};
  }

  static Tensor class_backward(Tensor grad_losses, ClassArguments a, Tensor lse, const std::vector<bool>& wanted,
                               ClassLossBackwardParams p) {
    check_wanted(wanted, 1);
    a.prepare(p);
    p.grad_losses = acc_vector(grad_losses, "grad_losses", p.rows, acc_type_of(a.input));
    check_shape(lse, "lse", {p.rows, 2});
    lse = as_type(lse, acc_type_of(a.input));
    p.lse = lse.data_ptr();
    Tensor grad_input = gradient(a.input, wanted[0]);
    if (!wanted[0]) return grad_input;
    p.grad_input = grad_input.data_ptr();
    OptionalTensor weight_sum;
    if (a.weight && p.label_smoothing > 0) {
      weight_sum = torch::stable::sum(*a.weight);
      p.weight_sum = weight_sum->data_ptr();
    }
    Device(a.input).class_backward(p);
    return grad_input;
  }

  // Of the tensor's shape and dtype; of shape (0,) where it is not wanted.
  static Tensor gradient(const Tensor& tensor, bool wanted) {
    return Device::make(tensor, wanted ? shape_of(tensor) : std::vector<int64_t>{0}, tensor.scalar_type());
  }
};

template <class Device, class Library>
void register_loss_ops(Library& m) {
  using Ops = LossOps<Device>;
  m.impl("cross_entropy_forward", TORCH_BOX(&Ops::cross_entropy_forward));
  m.impl("cross_entropy_backward", TORCH_BOX(&Ops::cross_entropy_backward));
  m.impl("focal_loss_forward", TORCH_BOX(&Ops::focal_loss_forward));
  m.impl("focal_loss_backward", TORCH_BOX(&Ops::focal_loss_backward));
  m.impl("soft_cross_entropy_forward", TORCH_BOX(&Ops::soft_cross_entropy_forward));
  m.impl("soft_cross_entropy_backward", TORCH_BOX(&Ops::soft_cross_entropy_backward));
  m.impl("huber_loss_forward", TORCH_BOX(&Ops::huber_loss_forward));
  m.impl("huber_loss_backward", TORCH_BOX(&Ops::huber_loss_backward));
}

}  // namespace
}  // namespace seo_kernels
