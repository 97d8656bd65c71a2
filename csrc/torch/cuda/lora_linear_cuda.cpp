// lora_linear on the GPU: input weight^T + bias + scaling * dropout(input) lora_a^T lora_b^T, and its gradients.
//
// On tensor cores (sm80) the low-rank term extends the inner dimension of one product. Otherwise it is written first,
// then torch's product is added to it: that reads what it adds to while it multiplies.
#include "cuda/lora.h"
#include "semantics/philox.h"
#include "torch/cuda/column_sums.h"
#include "torch/cuda/lora_tensor_cores.h"
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

bool on_tensor_cores(const Tensor& input, const Tensor& weight, int64_t rank) {
  const TierOffer sm80{Tier::kSm80, [&] { return TensorCoreLora::shared_bytes(rank); },
                       TensorCoreLora::refusal(input, weight, rank)};
  return decide_tier(dtype_of(input, "input"), {sm80}).tier == Tier::kSm80;
}

// out (rows, out_features), contiguous, and what is projected, (rows, rank): one product of [input, H] and
// [weight, lora_b], H = scaling * projected.
void forward_on_tensor_cores(Tensor matrix, Tensor weight, const OptionalTensor& bias, const Tensor& lora_a,
                             const Tensor& lora_b, const AdapterDropout& dropout, double scaling, Tensor out,
                             const Tensor& projected, cuda::Stream stream) {
  const TensorCoreLora adapter(matrix, lora_a.size(0), stream);
  const MatrixView left = rows_of(matrix, "input");
  const Tensor parts = adapter.down(left, adapter.factor(lora_a), dropout.bits);
  const Operand sums = adapter.left_side(parts, scaling * dropout.factor, projected, dropout.factor);
  cuda::sm80::LinearForwardParams p{cuda::MatmulParams::with_left_rows(left, matrix_of(weight, "weight"))};
  const Operand up = adapter.right_side(lora_b, p.product.right_turned);
  p.product.add(sums.view, up.view);
  const Tensor wide_bias = bias ? as_type(*bias, ScalarType::Float) : out;
  if (bias) p.bias = static_cast<const float*>(wide_bias.data_ptr());
  p.out = rows_of(out, "out");
  linear_on_tensor_cores(p, stream);
}

std::tuple<Tensor, Tensor> lora_linear_forward(Tensor input, Tensor weight, OptionalTensor bias, Tensor lora_a,
                                               Tensor lora_b, OptionalTensor seed, double scaling, double dropout_p) {
  check_linear(input, weight, bias);
  check_factors(input, weight, lora_a, lora_b, scaling);
  const AdapterDropout dropout = dropout_of(input, seed, dropout_p);
  const DeviceScope device(input);
  const WithoutAutograd guard;
  const int64_t rank = lora_a.size(0);
  const Tensor matrix = as_matrix(input), out = new_tensor(input, output_shape(input, weight), input.scalar_type());
  const Tensor sum = as_matrix(out);
  if (on_tensor_cores(input, weight, rank)) {
    const Tensor projected = new_tensor(input, {matrix.size(0), rank}, ScalarType::Float);
    forward_on_tensor_cores(matrix, weight, bias, lora_a, lora_b, dropout, scaling, sum, projected, device.stream);
    return {out, projected};
  }
  const LowRank adapter(input, rank, device.stream);
  const Tensor projected = adapter.down(matrix, lora_a, dropout.bits, dropout.factor);
  adapter.up(projected, transposed(lora_b), bias, {}, scaling, sum);
  multiply(matrix, transposed(weight), sum, sum);
  return {out, projected};
}

using FiveTensors = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

// What backward is given, matrices all, and the gradients that it returns.
struct Backward {
  Tensor gradient, matrix, weight, lora_a, lora_b, projected;
  AdapterDropout dropout;
  double scaling;
  std::vector<bool> wanted;
  Tensor grad_input, grad_weight, grad_bias, grad_a, grad_b;  // allocated where they are wanted

  bool wants_sums() const { return wanted[kInput] || wanted[kLoraA]; }
};

// With products of torch's.
void run_simt(const Backward& b, cuda::Stream stream) {
  const LowRank adapter(b.matrix, b.lora_a.size(0), stream);
  if (b.wanted[kWeight]) multiply(transposed(b.gradient), b.matrix, b.grad_weight);
  if (b.wanted[kLoraB]) {
    const Tensor projected = as_type(b.projected, acc_type_of(b.matrix));
    adapter.factor_gradient(projected, b.gradient, {}, b.scaling, transposed(b.grad_b));
  }
  if (!b.wants_sums()) return;
  // what dropout divides by is taken in here: both that this is for pass through the dropout
  const Tensor sums = adapter.down(b.gradient, transposed(b.lora_b), {}, b.scaling * b.dropout.factor);
  if (b.wanted[kLoraA]) adapter.factor_gradient(sums, b.matrix, b.dropout.bits, 1.0, b.grad_a);
  if (b.wanted[kInput]) {
    const Tensor sum = as_matrix(b.grad_input);
    adapter.up(sums, b.lora_a, {}, b.dropout.bits, 1.0, sum);
    multiply(b.gradient, b.weight, sum, sum);
  }
}

// The output's gradient is read once for what the factors get of it, and once for the product of [grad_out, G] and
// [weight; lora_a], G = scaling * grad_out lora_b.
void run_on_tensor_cores(Backward b, cuda::Stream stream) {
  const TensorCoreLora adapter(b.matrix, b.lora_a.size(0), stream);
  const MatrixView gradient = rows_of(b.gradient, "grad_out"), matrix = rows_of(b.matrix, "input");
  if (b.wanted[kWeight]) {
    multiply_on_tensor_cores({gradient.transposed(), matrix.transposed()}, rows_of(b.grad_weight, "grad_weight"),
                             stream);
  }
  OptionalTensor up, parts;
  if (b.wants_sums()) up = adapter.factor(transposed(b.lora_b));
  if (b.wanted[kLoraB]) {
    const Tensor projected = as_type(b.projected, ScalarType::Float);
    const Operand left = adapter.left_side(torch::stable::unsqueeze(projected, 0), 1.0);
    parts = adapter.factor_gradient(gradient, left, {}, b.scaling, transposed(b.grad_b), up);
  } else if (up) {
    parts = adapter.down(gradient, *up, {});
  }
  if (!parts) return;
  // what dropout divides by is taken in here: both that this is for pass through the dropout
  const Operand sums = adapter.left_side(*parts, b.scaling * b.dropout.factor);
  if (b.wanted[kLoraA]) adapter.factor_gradient(matrix, sums, b.dropout.bits, 1.0, b.grad_a);
  if (!b.wanted[kInput]) return;
  Tensor grad_input = as_matrix(b.grad_input);
  const MatrixView right = matrix_of(b.weight, "weight").transposed(), out = rows_of(grad_input, "grad_input");
  const bool turned = cuda::MatmulParams::is_turned(right);
  const Operand down = adapter.right_side(transposed(b.lora_a), turned);
  if (b.dropout.bits) {
    cuda::MatmulParams p(sums.view, down.view, false, turned);
    p.add(gradient, right);
    on_warpgroups(p) ? cuda::sm90::lora_dropped_product(p, b.dropout.bits, out, stream)
                     : cuda::sm80::lora_dropped_product(p, b.dropout.bits, out, stream);
    return;
  }
  cuda::MatmulParams p(gradient, right, false, turned);
  p.add(sums.view, down.view);
  multiply_on_tensor_cores(p, out, stream);
}

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
  const Tensor gradient = as_matrix(grad_out), matrix = as_matrix(input);
  check_shape(projected, "projected", {matrix.size(0), rank});
  const auto gradient_of = [&](LinearGradient which, const Tensor& tensor) {
    return wanted[which] ? new_tensor(input, shape_of(tensor), input.scalar_type()) : absent_like(input);
  };
  const Backward b{
      gradient,
      matrix,
      weight,
      lora_a,
      lora_b,
      projected,
      dropout,
      scaling,
      wanted,
      gradient_of(kInput, input),
      gradient_of(kWeight, weight),
      wanted[kBias] && bias ? sum_columns(gradient, bias->scalar_type(), device.stream) : absent_like(input),
      gradient_of(kLoraA, lora_a),
      gradient_of(kLoraB, lora_b)};
  on_tensor_cores(input, weight, rank) ? run_on_tensor_cores(b, device.stream) : run_simt(b, device.stream);
  return {b.grad_input, b.grad_weight, b.grad_bias, b.grad_a, b.grad_b};
}

}  // namespace
}  // namespace seo_kernels

STABLE_TORCH_LIBRARY_IMPL(seo_kernels, SK_DISPATCH_KEY, m) {
  m.impl("lora_linear_forward", TORCH_BOX(&seo_kernels::lora_linear_forward));
  m.impl("lora_linear_backward", TORCH_BOX(&seo_kernels::lora_linear_backward));
}
