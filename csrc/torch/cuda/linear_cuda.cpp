// linear on the GPU: activation(input weight^T + bias) and its gradients. On tensor cores products are our own, bias
// and activation being part of forward's; otherwise they are torch's, bias included, and the activation is one more
// read and write.
#include "cuda/activation.h"
#include "torch/activation_names.h"
#include "torch/cuda/column_sums.h"
#include "torch/cuda/matmul.h"
#include "torch/cuda/tensor_cores.h"
#include "torch/linear_arguments.h"

namespace seo_kernels {
namespace {

bool on_tensor_cores(const Tensor& input) {
  return decide_tier(dtype_of(input, "input"), {{Tier::kSm80, cuda::sm80::matmul_shared_bytes}}).tier == Tier::kSm80;
}

// out (rows, out_features) = activation(input weight^T + bias), on tensor cores; what the activation is of goes to
// `preactivation`, where it has entries. Both are contiguous matrices.
void product_on_tensor_cores(const Tensor& input, Tensor weight, const OptionalTensor& bias,
                             const std::string& activation, Tensor out, Tensor preactivation, cuda::Stream stream) {
  if (out.numel() == 0) return;
  Tensor matrix = as_matrix(input);
  const Tensor wide_bias = bias ? as_type(*bias, ScalarType::Float) : out;
  const MatrixView left = rows_of(matrix, "input"), right = matrix_of(weight, "weight");
  cuda::sm80::LinearForwardParams p{cuda::MatmulParams::with_left_rows(left, right)};
  if (bias) p.bias = static_cast<const float*>(wide_bias.data_ptr());
  p.activates = !activation.empty();
  if (p.activates) p.activation = activation_of(activation);
  p.out = rows_of(out, "out");
  if (preactivation.numel() > 0) p.preactivation = rows_of(preactivation, "preactivation");
  linear_on_tensor_cores(p, stream);
}

// out = left right^T, contiguous
void multiply_on_tensor_cores(Tensor left, Tensor right, Tensor out, cuda::Stream stream) {
  if (out.numel() == 0) return;
  multiply_on_tensor_cores({matrix_of(left, "left"), matrix_of(right, "right")}, rows_of(out, "out"), stream);
}

// out (rows, out_features) = input weight^T + bias
void product_with_bias(const Tensor& input, const Tensor& weight, const OptionalTensor& bias, const Tensor& out) {
  multiply(as_matrix(input), transposed(weight), out, bias ? as_type(*bias, input.scalar_type()) : bias);
}

// A contiguous matrix, and an activation of its entries.
template <class Params>
void set_activation(Params& p, const Tensor& matrix, const std::string& activation) {
  p.dtype = dtype_of(matrix, "matrix");
  p.rows = matrix.size(0);
  p.columns = p.last_columns = matrix.size(1);
  p.activation = activation_of(activation);
}

cuda::Rows contiguous_rows(const Tensor& matrix) { return {matrix.data_ptr(), matrix.size(1)}; }

// out = activation(preactivation), which may be the same; contiguous matrices
void activate(const Tensor& preactivation, const std::string& activation, const Tensor& out, cuda::Stream stream) {
  cuda::BiasActForwardParams p;
  set_activation(p, preactivation, activation);
  if (out.numel() == 0) return;
  p.input = contiguous_rows(preactivation);
  p.out = contiguous_rows(out);
  cuda::bias_act_forward(p, stream);
}

std::tuple<Tensor, Tensor> linear_forward(Tensor input, Tensor weight, OptionalTensor bias, std::string activation,
                                          bool keep) {
  check_linear(input, weight, bias);
  const DeviceScope device(input);
  const WithoutAutograd guard;
  const std::vector<int64_t> shape = output_shape(input, weight);
  Tensor out = new_tensor(input, shape, input.scalar_type());
  const bool kept = keep && !activation.empty();
  Tensor preactivation = new_tensor(input, kept ? shape : std::vector<int64_t>{0}, input.scalar_type());
  if (on_tensor_cores(input)) {
    product_on_tensor_cores(input, weight, bias, activation, as_matrix(out),
                            kept ? as_matrix(preactivation) : preactivation, device.stream);
    return {out, preactivation};
  }
  const Tensor before = as_matrix(kept ? preactivation : out);
  product_with_bias(input, weight, bias, before);
  if (!activation.empty()) activate(before, activation, as_matrix(out), device.stream);
  return {out, preactivation};
}

// The gradient of the activation's input, and its column sums where they are wanted, in one pass.
struct RowGradients {
  Tensor gradient;  // (rows, out_features)
  OptionalTensor sums;
};

RowGradients row_gradients(const Tensor& grad_out, const Tensor& preactivation, const std::string& activation,
                           bool sums, cuda::Stream stream) {
  Tensor given = as_matrix(grad_out), before = as_matrix(preactivation);
  cuda::BiasActBackwardParams p;
  set_activation(p, given, activation);
  RowGradients result{new_tensor(given, {p.rows, p.columns}, given.scalar_type()), {}};
  if (given.numel() == 0) {
    if (sums) result.sums = new_tensor(given, {p.columns}, ScalarType::Double, true);
    return result;
  }
  p.input = device_rows(rows_of(before, "preactivation"));
  p.grad_out = device_rows(rows_of(given, "grad_out"));
  p.grad_input = contiguous_rows(result.gradient);
  if (!sums) {
    cuda::bias_act_backward(p, stream);
    return result;
  }
  const SummedColumns memory(given, p.rows, p.columns);
  p.grad_bias = memory.pointers();
  cuda::bias_act_backward(p, stream);
  result.sums = memory.sums;
  return result;
}

std::tuple<Tensor, Tensor, Tensor> linear_backward(Tensor grad_out, Tensor input, Tensor weight, OptionalTensor bias,
                                                   OptionalTensor preactivation, std::string activation,
                                                   std::vector<bool> wanted) {
  check_linear(input, weight, bias);
  check_grad_out(grad_out, input, weight);
  check_wanted(wanted, kLinearGradients);
  const DeviceScope device(input);
  const WithoutAutograd guard;
  const bool sums = wanted[kBias] && bias, own = on_tensor_cores(input);
  Tensor gradient = as_matrix(grad_out), grad_bias = absent_like(input);
  if (!activation.empty()) {
    leave_out_absent(preactivation);
    if (!preactivation) {
      preactivation = new_tensor(input, output_shape(input, weight), input.scalar_type());
      const Tensor before = as_matrix(*preactivation);
      own ? product_on_tensor_cores(input, weight, bias, "", before, absent_like(input), device.stream)
          : product_with_bias(input, weight, bias, before);
    }
    check_preactivation(*preactivation, input, weight);
    const RowGradients rows = row_gradients(grad_out, *preactivation, activation, sums, device.stream);
    gradient = rows.gradient;
    if (sums) grad_bias = as_type(*rows.sums, bias->scalar_type());
  } else if (sums) {
    grad_bias = sum_columns(gradient, bias->scalar_type(), device.stream);
  }
  Tensor grad_input = absent_like(input), grad_weight = absent_like(input);
  if (wanted[kInput]) {
    grad_input = new_tensor(input, shape_of(input), input.scalar_type());
    own ? multiply_on_tensor_cores(gradient, transposed(weight), as_matrix(grad_input), device.stream)
        : multiply(gradient, weight, as_matrix(grad_input));
  }
  if (wanted[kWeight]) {
    grad_weight = new_tensor(input, shape_of(weight), input.scalar_type());
    own ? multiply_on_tensor_cores(transposed(gradient), transposed(as_matrix(input)), grad_weight, device.stream)
        : multiply(transposed(gradient), as_matrix(input), grad_weight);
  }
  return {grad_input, grad_weight, grad_bias};
}

}  // namespace
}  // namespace seo_kernels

STABLE_TORCH_LIBRARY_IMPL(seo_kernels, SK_DISPATCH_KEY, m) {
  m.impl("linear_forward", TORCH_BOX(&seo_kernels::linear_forward));
  m.impl("linear_backward", TORCH_BOX(&seo_kernels::linear_backward));
}
