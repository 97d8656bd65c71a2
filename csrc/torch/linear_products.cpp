#include "torch/linear_products.h"

namespace seo_kernels {

Tensor weight_gradient(const MatrixView& grad, const MatrixView& input, const Tensor& like) {
  Tensor gradient = make_tensor(like, {grad.columns, input.columns}, like.scalar_type());
  cpu::MatmulParams p;
  p.dtype = grad.dtype;
  p.a = grad.transposed();
  p.b.matrix = input;
  p.out = rows_of(gradient, "gradient");
  run_product(p);
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
