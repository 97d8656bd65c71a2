// linear on the CPU: activation(input weight^T + bias) and its gradients.
#include "torch/activation_names.h"
#include "torch/linear_products.h"

namespace seo_kernels {
namespace {

cpu::OptionalActivation optional_activation(const std::string& name) {
  if (name.empty()) return {};
  return {true, activation_of(name)};
}

// out, and the preactivation where `keep` asks for it (undefined otherwise)
std::pair<Tensor, Tensor> forward(Tensor input, Tensor weight, OptionalTensor bias,
                                  const cpu::OptionalActivation& activation, bool keep) {
  const std::vector<int64_t> shape = output_shape(input, weight);
  Tensor out = make_tensor(input, shape, input.scalar_type()), preactivation;
  if (bias) bias = as_type(*bias, acc_type_of(input));
  cpu::MatmulParams p;
  p.dtype = dtype_of(input, "input");
  p.a = matrix_of(input, "input");
  p.b.matrix = matrix_of(weight, "weight").transposed();
  p.bias = bias ? bias->data_ptr() : nullptr;
  p.activation = activation;
  p.out = rows_of(out, "out");
  if (keep) {
    preactivation = make_tensor(input, shape, input.scalar_type());
    p.preactivation = rows_of(preactivation, "preactivation");
  }
  run_product(p);
  return {out, preactivation};
}

std::tuple<Tensor, Tensor> linear_forward(Tensor input, Tensor weight, OptionalTensor bias, std::string activation,
                                          bool keep) {
  check_linear(input, weight, bias);
  const cpu::OptionalActivation which = optional_activation(activation);
  const bool kept = keep && which.any;
  auto [out, preactivation] = forward(input, weight, bias, which, kept);
  return {out, kept ? preactivation : absent(input)};
}

std::tuple<Tensor, Tensor, Tensor> linear_backward(Tensor grad_out, Tensor input, Tensor weight, OptionalTensor bias,
                                                   OptionalTensor preactivation, std::string activation,
                                                   std::vector<bool> wanted) {
  check_linear(input, weight, bias);
  check_grad_out(grad_out, input, weight);
  check_wanted(wanted, kLinearGradients);
  const cpu::OptionalActivation which = optional_activation(activation);
  if (which.any) {
    leave_out_absent(preactivation);
    if (!preactivation) preactivation = forward(input, weight, bias, {}, false).first;
    check_preactivation(*preactivation, input, weight);
  }
  const bool sums = wanted[kBias] && bias;
  RowGradients rows =
      row_gradients(grad_out, which, preactivation, sums, bias ? bias->scalar_type() : input.scalar_type());
  Tensor grad_input = absent(input), grad_weight = absent(input);
  const MatrixView grad = matrix_of(rows.gradient, "grad_out");
  if (wanted[kInput]) {
    grad_input = make_tensor(input, shape_of(input), input.scalar_type());
    cpu::MatmulParams p;
    p.dtype = grad.dtype;
    p.a = grad;
    p.b.matrix = matrix_of(weight, "weight");
    p.out = rows_of(grad_input, "grad_input");
    run_product(p);
  }
  if (wanted[kWeight]) grad_weight = weight_gradient(grad, matrix_of(input, "input"), input);
  return {grad_input, grad_weight, rows.column_sums};
}

}  // namespace
}  // namespace seo_kernels

STABLE_TORCH_LIBRARY_IMPL(seo_kernels, CPU, m) {
  m.impl("linear_forward", TORCH_BOX(&seo_kernels::linear_forward));
  m.impl("linear_backward", TORCH_BOX(&seo_kernels::linear_backward));
}
