#include "torch/linear_arguments.h"

namespace seo_kernels {

ScalarType acc_type_of(const Tensor& tensor) {
  return tensor.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

void check_linear(const Tensor& input, const Tensor& weight, const OptionalTensor& bias) {
  if (input.dim() < 1 || dtype_of(input, "input") == DType::kBool) {
    throw std::invalid_argument("input has shape " + shape_text(input) + ", expected a floating (..., in_features)");
  }
  const int64_t in = input.size(input.dim() - 1);
  if (weight.dim() != 2 || weight.size(1) != in) {
    throw std::invalid_argument("weight has shape " + shape_text(weight) +
                                ", expected (out_features, in_features=" + std::to_string(in) + ")");
  }
  if (weight.scalar_type() != input.scalar_type()) throw std::invalid_argument("weight must have input's dtype");
  if (bias) {
    check_shape(*bias, "bias", {weight.size(0)});
    if (dtype_of(*bias, "bias") == DType::kBool) throw std::invalid_argument("bias must be floating");
  }
}

void check_grad_out(const Tensor& grad_out, const Tensor& input, const Tensor& weight) {
  check_shape(grad_out, "grad_out", output_shape(input, weight));
  if (grad_out.scalar_type() != input.scalar_type()) throw std::invalid_argument("grad_out must have input's dtype");
}

std::vector<int64_t> output_shape(const Tensor& input, const Tensor& weight) {
  std::vector<int64_t> shape = shape_of(input);
  shape.back() = weight.size(0);
  return shape;
}

MatrixView rows_of(Tensor& tensor, const char* name) {
  if (tensor.stride(tensor.dim() - 1) != 1) tensor = torch::stable::contiguous(tensor);
  MatrixView view = matrix_of(tensor, name);
  view.column_stride = 1;  // of a single column torch may say anything
  return view;
}

Tensor weight_gradient(const MatrixView& grad, const MatrixView& input, const Tensor& like) {
  Tensor gradient = make_tensor(like, {grad.columns, input.columns}, like.scalar_type());
  cpu::MatmulParams p;
  p.dtype = grad.dtype;
  p.a = grad.transposed();
  p.b.matrix = input;
  p.out = rows_of(gradient, "gradient");
  run_product(p, like);
  return gradient;
}

RowGradients row_gradients(const Tensor& grad_out, const cpu::OptionalActivation& activation,
                           const OptionalTensor& preactivation, bool sums, ScalarType sums_type) {
  RowGradients result{grad_out, absent(grad_out)};
  if (!activation.any && !sums) return result;
  Tensor rows = grad_out;
  cpu::GradientRowsParams p;
  p.grad_out = rows_of(rows, "grad_out");
  p.activation = activation;
  Tensor before;
  if (activation.any) {
    before = *preactivation;
    p.preactivation = rows_of(before, "preactivation");
    result.gradient = make_tensor(grad_out, shape_of(grad_out), grad_out.scalar_type());
    p.grad = rows_of(result.gradient, "gradient");
  }
  const int64_t slots = slots_for(p.grad_out.rows * p.grad_out.columns);
  Tensor parts;
  if (sums) {
    parts = make_tensor(grad_out, {slots, p.grad_out.columns}, acc_type_of(grad_out), true);
    p.column_sums = parts.data_ptr();
  }
  if (p.grad_out.columns > 0) {
    for_each_slot(slots, [&](int64_t slot) {
      cpu::kernels().linear.gradient_rows(p, share(p.grad_out.rows, 1, slots, slot), slot);
    });
  }
  if (sums) result.column_sums = to_type(sum_slots(parts), sums_type);
  return result;
}

}  // namespace seo_kernels
