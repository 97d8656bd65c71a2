// lora_linear on the GPU: input weight^T + bias + scaling * dropout(input) lora_a^T lora_b^T, and its gradients.
//
// The low-rank term is written first, then torch's product is added to it: that reads what it adds to while it
// multiplies.
#include "cuda/lora.h"
#include "semantics/philox.h"
#include "torch/cuda/column_sums.h"
#include "torch/cuda/matmul.h"
#include "torch/linear_arguments.h"

namespace seo_kernels {
namespace {

struct AdapterDropout {
  cuda::Dropout bits;
  double factor = 1.0;  // of what is kept
};

AdapterDropout dropout_of(const Tensor& input, const OptionalTensor& seed, double dropout_p) {
  if (!check_dropout(seed, dropout_p)) return {};
  if (seed->get_device_index() != input.get_device_index()) {
    throw std::invalid_argument("seed must be on input's device");
  }
  return {{static_cast<const int64_t*>(seed->data_ptr()), dropout_threshold(dropout_p)}, 1.0 / (1.0 - dropout_p)};
}

// Products with the factors of a low-rank term, by our own kernels up to cuda::kMostRank, by torch's beyond. Matrices:
// `sums` are (rows, rank) in the accumulation type, factors (rank, columns) of any strides.
class LowRank {
 public:
  LowRank(const Tensor& input, int64_t rank, cuda::Stream stream)
      : dtype_(dtype_of(input, "input")), rank_(rank), stream_(stream) {}

  // sums = scale * dropout(matrix) factor^T
  Tensor down(Tensor matrix, Tensor factor, const cuda::Dropout& dropout, double scale) const {
    Tensor sums = new_tensor(matrix, {matrix.size(0), rank_}, acc_type_of(matrix));
    if (!own()) {
      multiply(dropout ? dropped(matrix, dropout) : matrix, transposed(factor), sums);
      if (scale != 1.0) run_scale(sums, scale, sums);
      return sums;
    }
    if (sums.numel() == 0) return sums;
    auto p = params<cuda::LoraDownParams>(matrix, dropout, scale);
    p.input = device_rows(rows_of(matrix, "matrix"));
    p.down = device_rows(rows_of(factor, "factor"));
    p.projected = sums.data_ptr();
    cuda::lora_down(p, stream_);
    return sums;
  }

  // out = dropout(scale * sums factor) + bias; without one of dropout and bias. out: contiguous
  void up(const Tensor& sums, Tensor factor, const OptionalTensor& bias, const cuda::Dropout& dropout, double scale,
          Tensor out) const {
    if (!own()) {
      const OptionalTensor term = bias ? as_type(*bias, out.scalar_type()) : bias;
      multiply(operand(sums, scale, out), factor, out, term);
      if (dropout) run_drop(out, dropout, out);
      return;
    }
    auto p = params<cuda::LoraUpParams>(out, dropout, scale);
    const Tensor wide_bias = bias ? as_type(*bias, sums.scalar_type()) : Tensor();
    p.left = sums.data_ptr();
    p.up = device_rows(rows_of(factor, "factor"));
    p.bias = bias ? wide_bias.data_ptr() : nullptr;
    p.out = device_rows(rows_of(out, "out"));
    cuda::lora_up(p, stream_);
  }

  // gradient (rank, columns) = scale * sums^T dropout(matrix)
  void factor_gradient(const Tensor& sums, Tensor matrix, const cuda::Dropout& dropout, double scale,
                       const Tensor& gradient) const {
    if (!own()) {
      const Tensor right = dropout ? dropped(matrix, dropout) : matrix;
      return multiply(transposed(operand(sums, scale, gradient)), right, gradient);
    }
    auto p = params<cuda::LoraFactorParams>(matrix, dropout, scale);
    const int64_t slots = cuda::lora_factor_slots(p.dtype, p.rows, p.columns);
    const Tensor parts = new_tensor(sums, {slots, rank_, p.columns}, sums.scalar_type());
    p.left = sums.data_ptr();
    p.right = device_rows(rows_of(matrix, "matrix"));
    p.parts = parts.data_ptr();
    p.gradient = gradient.data_ptr();
    p.gradient_rank_stride = gradient.stride(0);
    p.gradient_column_stride = gradient.stride(1);
    cuda::lora_factor(p, stream_);
  }

 private:
  bool own() const { return rank_ <= cuda::kMostRank; }

  template <class Params>
  Params params(const Tensor& matrix, const cuda::Dropout& dropout, double factor) const {
    Params p;
    p.dtype = dtype_;
    p.rows = matrix.size(0);
    p.columns = matrix.size(1);
    p.rank = rank_;
    p.dropout = dropout;
    p.factor = factor;
    return p;
  }

  Tensor dropped(const Tensor& matrix, const cuda::Dropout& dropout) const {
    Tensor out = new_tensor(matrix, shape_of(matrix), matrix.scalar_type());
    run_drop(matrix, dropout, out);
    return out;
  }

  void run_drop(Tensor matrix, const cuda::Dropout& dropout, Tensor out) const {
    const cuda::Rows from = device_rows(rows_of(matrix, "matrix")), to = device_rows(rows_of(out, "out"));
    cuda::drop({dtype_, matrix.size(0), matrix.size(1), dropout, from, to}, stream_);
  }

  // scale * sums, rounded to the operand of a product with matrices like another
  Tensor operand(const Tensor& sums, double scale, const Tensor& like) const {
    Tensor out = new_tensor(like, shape_of(sums), like.scalar_type());
    run_scale(sums, scale, out);
    return out;
  }

  void run_scale(const Tensor& sums, double scale, const Tensor& out) const {
    cuda::scale_sums({dtype_of(out, "out"), sums.numel(), sums.data_ptr(), out.data_ptr(), scale}, stream_);
  }

  DType dtype_;
  int64_t rank_;
  cuda::Stream stream_;
};

std::tuple<Tensor, Tensor> lora_linear_forward(Tensor input, Tensor weight, OptionalTensor bias, Tensor lora_a,
                                               Tensor lora_b, OptionalTensor seed, double scaling, double dropout_p) {
  check_linear(input, weight, bias);
  check_factors(input, weight, lora_a, lora_b, scaling);
  const AdapterDropout dropout = dropout_of(input, seed, dropout_p);
  const DeviceScope device(input);
  const WithoutAutograd guard;
  const LowRank adapter(input, lora_a.size(0), device.stream);
  const Tensor matrix = as_matrix(input), out = new_tensor(input, output_shape(input, weight), input.scalar_type());
  const Tensor sum = as_matrix(out);
  const Tensor projected = adapter.down(matrix, lora_a, dropout.bits, dropout.factor);
  adapter.up(projected, transposed(lora_b), bias, {}, scaling, sum);
  multiply(matrix, transposed(weight), sum, sum);
  return {out, projected};
}

using FiveTensors = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

FiveTensors lora_linear_backward(Tensor grad_out, Tensor input, Tensor weight, OptionalTensor bias, Tensor lora_a,
                                 Tensor lora_b, Tensor projected, OptionalTensor seed, double scaling, double dropout_p,
                                 std::vector<bool> wanted) {
  check_linear(input, weight, bias);
  check_factors(input, weight, lora_a, lora_b, scaling);
  check_grad_out(grad_out, input, weight);
  check_wanted(wanted, kLoraGradients);
  const AdapterDropout dropout = dropout_of(input, seed, dropout_p);
  const DeviceScope device(input);
  const WithoutAutograd guard;
  const int64_t rank = lora_a.size(0);
  const LowRank adapter(input, rank, device.stream);
  const Tensor gradient = as_matrix(grad_out), matrix = as_matrix(input);
  check_shape(projected, "projected", {matrix.size(0), rank});
  const auto like = [&](const Tensor& tensor) { return new_tensor(input, shape_of(tensor), input.scalar_type()); };

  Tensor grad_input = absent_like(input), grad_weight = absent_like(input), grad_bias = absent_like(input);
  Tensor grad_a = absent_like(input), grad_b = absent_like(input);
  if (wanted[kBias] && bias) grad_bias = sum_columns(gradient, bias->scalar_type(), device.stream);
  if (wanted[kWeight]) {
    grad_weight = like(weight);
    multiply(transposed(gradient), matrix, grad_weight);
  }
  if (wanted[kLoraB]) {
    grad_b = like(lora_b);
    projected = as_type(projected, acc_type_of(input));
    adapter.factor_gradient(projected, gradient, {}, scaling, transposed(grad_b));
  }
  if (!wanted[kInput] && !wanted[kLoraA]) return {grad_input, grad_weight, grad_bias, grad_a, grad_b};
  // what dropout divides by is taken in here: both that this is for pass through the dropout
  const Tensor sums = adapter.down(gradient, transposed(lora_b), {}, scaling * dropout.factor);
  if (wanted[kLoraA]) {
    grad_a = like(lora_a);
    adapter.factor_gradient(sums, matrix, dropout.bits, 1.0, grad_a);
  }
  if (wanted[kInput]) {
    grad_input = like(input);
    const Tensor sum = as_matrix(grad_input);
    adapter.up(sums, lora_a, {}, dropout.bits, 1.0, sum);
    multiply(gradient, weight, sum, sum);
  }
  return {grad_input, grad_weight, grad_bias, grad_a, grad_b};
}

}  // namespace
}  // namespace seo_kernels

STABLE_TORCH_LIBRARY_IMPL(seo_kernels, SK_DISPATCH_KEY, m) {
  m.impl("lora_linear_forward", TORCH_BOX(&seo_kernels::lora_linear_forward));
  m.impl("lora_linear_backward", TORCH_BOX(&seo_kernels::lora_linear_backward));
}
