// bias_act and gated_act on the GPU: checks, allocation, launch, registration.
#include "cuda/activation.h"
#include "torch/activation_arguments.h"
#include "torch/activation_names.h"
#include "torch/cuda/column_sums.h"

namespace seo_kernels {
namespace {

// Contiguous tensors without a bias are cut into rows of so many entries.
constexpr int64_t kFlatColumns = 4096;

// The tensors of a call as matrices of one shape.
class Matrices {
 public:
  // shape: of all; whole_rows: whether columns have a meaning
  Matrices(const std::vector<int64_t>& shape, bool whole_rows) : whole_rows_(whole_rows) {
    columns_ = shape.empty() ? 1 : shape.back();
    for (const int64_t size : shape) entries_ *= size;
  }

  // (..., n): the first `columns` of rows that lie `offset` entries in. The tensor is replaced by a contiguous copy
  // where it is no matrix with neighbouring columns side by side.
  void add(cuda::Rows& to, Tensor& tensor, const char* name, int64_t offset = 0) {
    MatrixView view;
    if (tensor.dim() > 0) {
      view = matrix_of(tensor, name);
      if (view.column_stride != 1 && view.columns > 1) {
        tensor = torch::stable::contiguous(tensor);
        view = matrix_of(tensor, name);
      }
    } else {
      view.data = tensor.data_ptr();
    }
    to.data = static_cast<char*>(view.data) + offset * tensor.element_size();
    to.stride = view.row_stride;
    const bool joined = view.columns == columns_ || tensor.dim() == 0;
    contiguous_ = contiguous_ && joined && (view.rows <= 1 || view.row_stride == columns_);
    all_.push_back(&to);
  }

  void finish(cuda::ActivationParams& p) const {
    p.columns = columns_;
    p.rows = columns_ > 0 ? entries_ / columns_ : 0;
    p.last_columns = columns_;
    if (whole_rows_ || !contiguous_) return;
    p.columns = std::min(entries_, kFlatColumns);
    p.rows = (entries_ + p.columns - 1) / p.columns;
    p.last_columns = entries_ - (p.rows - 1) * p.columns;
    for (cuda::Rows* rows : all_) rows->stride = p.columns;
  }

 private:
  bool whole_rows_, contiguous_ = true;
  int64_t columns_ = 1, entries_ = 1;
  std::vector<cuda::Rows*> all_;
};

void set_op(cuda::ActivationParams& p, const Tensor& input, const std::string& activation, double negative_slope) {
  p.dtype = dtype_of(input, "input");
  p.activation = activation_of(activation);
  p.negative_slope = negative_slope;
}

Tensor bias_act_forward(Tensor input, OptionalTensor bias, std::string activation, double negative_slope) {
  check_activation_input(input);
  check_activation_bias(input, bias);
  cuda::BiasActForwardParams p;
  set_op(p, input, activation, negative_slope);
  Tensor out = new_tensor(input, shape_of(input), input.scalar_type());
  if (out.numel() == 0) return out;
  const DeviceScope device(input);
  Matrices matrices(shape_of(input), bias.has_value());
  matrices.add(p.input, input, "input");
  matrices.add(p.out, out, "out");
  matrices.finish(p);
  Tensor wide_bias;
  if (bias) {
    wide_bias = as_type(*bias, acc_type_of(input));
    p.bias = wide_bias.data_ptr();
  }
  cuda::bias_act_forward(p, device.stream);
  return out;
}

std::tuple<Tensor, Tensor> bias_act_backward(Tensor grad_out, Tensor input, OptionalTensor bias, std::string activation,
                                             double negative_slope, std::vector<bool> wanted) {
  check_activation_input(input);
  check_activation_bias(input, bias);
  check_same(grad_out, "grad_out", shape_of(input), input);
  check_wanted(wanted, 2);
  cuda::BiasActBackwardParams p;
  set_op(p, input, activation, negative_slope);
  const bool sums = wanted[1] && bias;
  Tensor grad_input = wanted[0] ? new_tensor(input, shape_of(input), input.scalar_type()) : absent_like(input);
  if (input.numel() == 0) {
    return {grad_input, sums ? new_tensor(*bias, {bias->numel()}, bias->scalar_type(), true) : absent_like(input)};
  }
  const DeviceScope device(input);
  Matrices matrices(shape_of(input), bias.has_value());
  matrices.add(p.input, input, "input");
  matrices.add(p.grad_out, grad_out, "grad_out");
  if (wanted[0]) matrices.add(p.grad_input, grad_input, "grad_input");
  matrices.finish(p);
  Tensor wide_bias;
  if (bias) {
    wide_bias = as_type(*bias, acc_type_of(input));
    p.bias = wide_bias.data_ptr();
  }
  std::optional<SummedColumns> grad_bias;
  if (sums) {
    grad_bias.emplace(input, p.rows, p.columns);
    p.grad_bias = grad_bias->pointers();
  }
  cuda::bias_act_backward(p, device.stream);
  return {grad_input, sums ? as_type(grad_bias->sums, bias->scalar_type()) : absent_like(input)};
}

Tensor gated_act_forward(Tensor input, OptionalTensor up, std::string activation) {
  const std::vector<int64_t> shape = gated_shape(input, up);
  cuda::GatedActForwardParams p;
  set_op(p, input, activation, p.negative_slope);
  Tensor out = new_tensor(input, shape, input.scalar_type());
  if (out.numel() == 0) return out;
  const DeviceScope device(input);
  Matrices matrices(shape, false);
  matrices.add(p.gate, input, "input");
  up ? matrices.add(p.up, *up, "up") : matrices.add(p.up, input, "input", shape.back());
  matrices.add(p.out, out, "out");
  matrices.finish(p);
  cuda::gated_act_forward(p, device.stream);
  return out;
}

std::tuple<Tensor, Tensor> gated_act_backward(Tensor grad_out, Tensor input, OptionalTensor up, std::string activation,
                                              std::vector<bool> wanted) {
  const std::vector<int64_t> shape = gated_shape(input, up);
  check_same(grad_out, "grad_out", shape, input);
  check_wanted(wanted, 2);
  cuda::GatedActBackwardParams p;
  set_op(p, input, activation, p.negative_slope);
  Tensor grad_input = wanted[0] ? new_tensor(input, shape_of(input), input.scalar_type()) : absent_like(input);
  Tensor grad_up = wanted[1] && up ? new_tensor(input, shape, input.scalar_type()) : absent_like(input);
  if (grad_out.numel() == 0) return {grad_input, grad_up};
  const DeviceScope device(input);
  Matrices matrices(shape, false);
  matrices.add(p.gate, input, "input");
  up ? matrices.add(p.up, *up, "up") : matrices.add(p.up, input, "input", shape.back());
  matrices.add(p.grad_out, grad_out, "grad_out");
  if (wanted[0]) {
    matrices.add(p.grad_gate, grad_input, "grad_input");
    if (!up) matrices.add(p.grad_up, grad_input, "grad_input", shape.back());
  }
  if (up && wanted[1]) matrices.add(p.grad_up, grad_up, "grad_up");
  matrices.finish(p);
  cuda::gated_act_backward(p, device.stream);
  return {grad_input, grad_up};
}

}  // namespace
}  // namespace seo_kernels

STABLE_TORCH_LIBRARY_IMPL(seo_kernels, SK_DISPATCH_KEY, m) {
  m.impl("bias_act_forward", TORCH_BOX(&seo_kernels::bias_act_forward));
  m.impl("bias_act_backward", TORCH_BOX(&seo_kernels::bias_act_backward));
  m.impl("gated_act_forward", TORCH_BOX(&seo_kernels::gated_act_forward));
  m.impl("gated_act_backward", TORCH_BOX(&seo_kernels::gated_act_backward));
}
