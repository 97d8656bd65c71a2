// linear on the CPU: checks, allocation, registration.
#include "torch/products.h"

namespace seo_kernels {
namespace {

ScalarType acc_type(const Tensor& tensor) {
  return tensor.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

void check_operands(const Tensor& input, const Tensor& weight, const OptionalTensor& bias) {
  if (input.dim() < 1 || dtype_of(input, "input") == cpu::DType::kBool) {
    throw std::invalid_argument("input has shape " + shape_text(input) + ", expected floating (..., in_features)");
  }
  const int64_t in = input.size(input.dim() - 1);
  if (weight.dim() != 2 || weight.size(1) != in) {
    throw std::invalid_argument("weight has shape " + shape_text(weight) +
                                ", expected (out_features, in_features=" + std::to_string(in) + ")");
  }
  if (weight.scalar_type() != input.scalar_type()) {
    throw std::invalid_argument("weight must have input's dtype");
  }
  if (bias) check_shape(*bias, "bias", {weight.size(0)});
}

std::tuple<Tensor, Tensor> linear_forward(Tensor input, Tensor weight, OptionalTensor bias, std::string activation,
                                          bool keep) {
  check_operands(input, weight, bias);
  std::vector<int64_t> shape = shape_of(input);
  shape.back() = weight.size(0);
  Tensor out = make_tensor(input, shape, input.scalar_type());
  if (bias) bias = as_type(*bias, acc_type(input));
  cpu::MatmulParams p;
  p.dtype = dtype_of(input, "input");
  p.a = matrix_of(input, "input");
  p.b.matrix = matrix_of(weight, "weight").transposed();
  p.bias = bias ? bias->data_ptr() : nullptr;
  p.out = matrix_of(out, "out");
  run_product(p, input);
  return {out, make_tensor(input, {0}, input.scalar_type())};
}

}  // namespace
}  // namespace seo_kernels

STABLE_TORCH_LIBRARY_IMPL(seo_kernels, CPU, m) { m.impl("linear_forward", TORCH_BOX(&seo_kernels::linear_forward)); }
