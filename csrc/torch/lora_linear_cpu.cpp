// lora_linear on the CPU: input weight^T + bias + scaling * dropout(input) lora_a^T lora_b^T, and its gradients.
#include "cpu/kernels.h"
#include "torch/linear_products.h"

namespace seo_kernels {
namespace {

cpu::DropoutBits dropout_of(const OptionalTensor& seed, double dropout_p) {
  if (!check_dropout(seed, dropout_p)) return {};
  return {true, static_cast<uint64_t>(*static_cast<const int64_t*>(seed->data_ptr())), dropout_p};
}

// Packs the right-hand sides of a product with a low-rank term: those that every slot reads whole.
template <class P>
void pack_sides(const P& p, const Division& division) {
  for_each_slot(division.slots, [&](int64_t slot) {
    pack_share(p.dtype, p.down, division.slots, slot);
    if (!division.by_rows) return;
    pack_share(p.dtype, p.up, division.slots, slot);
    pack_share(p.dtype, p.b, division.slots, slot);
  });
}

std::tuple<Tensor, Tensor> lora_linear_forward(Tensor input, Tensor weight, OptionalTensor bias, Tensor lora_a,
                                               Tensor lora_b, OptionalTensor seed, double scaling, double dropout_p) {
  check_linear(input, weight, bias);
  check_factors(input, weight, lora_a, lora_b, scaling);
  const ScalarType acc = acc_type_of(input);
  cpu::LoraForwardParams p;
  p.dropout = dropout_of(seed, dropout_p);
  Tensor out = make_tensor(input, output_shape(input, weight), input.scalar_type());
  if (bias) bias = as_type(*bias, acc);
  p.dtype = dtype_of(input, "input");
  p.a = matrix_of(input, "input");
  p.b.matrix = matrix_of(weight, "weight").transposed();
  p.down.matrix = matrix_of(lora_a, "lora_a").transposed();
  p.up.matrix = matrix_of(lora_b, "lora_b").transposed();
  p.bias = bias ? bias->data_ptr() : nullptr;
  p.out = rows_of(out, "out");
  p.scaling = scaling;
  Tensor projected = make_tensor(input, {p.a.rows, lora_a.size(0)}, acc);
  p.projected = projected.data_ptr();
  if (p.a.rows > 0) {
    const int64_t panels = cpu::kernels().linear.panel_count(p.dtype, p.out.columns);
    const Division division(p.out.rows, p.out.columns, p.a.columns, panels);
    const WorkingMemory memory[] = {packed_memory(p.dtype, p.b, division.held()), packed_memory(p.dtype, p.down),
                                    packed_memory(p.dtype, p.up, division.held())};
    pack_sides(p, division);
    division.run([&](const cpu::MatmulShare& share) { cpu::kernels().linear.lora_forward(p, share); });
  }
  return {out, projected};
}

// (slots, rows, columns) zeros where wanted
Tensor factor_parts(bool wanted, const Tensor& like, int64_t slots, int64_t rows, int64_t columns, void*& data) {
  if (!wanted) return absent(like);
  Tensor parts = make_tensor(like, {slots, rows, columns}, acc_type_of(like), true);
  data = parts.data_ptr();
  return parts;
}

using FiveTensors = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

FiveTensors lora_linear_backward(Tensor grad_out, Tensor input, Tensor weight, OptionalTensor bias, Tensor lora_a,
                                 Tensor lora_b, Tensor projected, OptionalTensor seed, double scaling, double dropout_p,
                                 std::vector<bool> wanted) {
  check_linear(input, weight, bias);
  check_factors(input, weight, lora_a, lora_b, scaling);
  check_grad_out(grad_out, input, weight);
  check_wanted(wanted, kLoraGradients);
  const ScalarType acc = acc_type_of(input), type = input.scalar_type();
  const int64_t rank = lora_a.size(0);
  cpu::LoraBackwardParams p;
  p.dropout = dropout_of(seed, dropout_p);
  p.dtype = dtype_of(input, "input");
  p.a = matrix_of(grad_out, "grad_out");
  p.input = matrix_of(input, "input");
  check_shape(projected, "projected", {p.input.rows, rank});
  projected = as_type(projected, acc);
  p.projected = projected.data_ptr();
  p.b.matrix = matrix_of(weight, "weight");
  p.down.matrix = matrix_of(lora_b, "lora_b");
  p.up.matrix = matrix_of(lora_a, "lora_a");
  p.scaling = scaling;

  Tensor grad_input = absent(input), grad_weight = absent(input), grad_a = absent(input), grad_b = absent(input);
  const bool bias_wanted = wanted[kBias] && bias;
  RowGradients sums = row_gradients(grad_out, {}, {}, bias_wanted, bias ? bias->scalar_type() : type);
  if (wanted[kWeight]) grad_weight = weight_gradient(p.a, p.input, input);
  if (wanted[kInput]) {
    grad_input = make_tensor(input, shape_of(input), type);
    p.out = rows_of(grad_input, "grad_input");
  }
  if (wanted[kInput] || wanted[kLoraA] || wanted[kLoraB]) {
    const int64_t panels = wanted[kInput] ? cpu::kernels().linear.panel_count(p.dtype, p.out.columns) : 0;
    const Division division(p.a.rows, p.out.columns, p.a.columns, panels);
    Tensor parts_a = factor_parts(wanted[kLoraA], input, division.slots, rank, p.input.columns, p.grad_lora_a);
    Tensor parts_b = factor_parts(wanted[kLoraB], input, division.slots, rank, p.a.columns, p.grad_lora_b);
    if (p.a.rows > 0) {
      const WorkingMemory memory[] = {packed_memory(p.dtype, p.b, division.held()), packed_memory(p.dtype, p.down),
                                      packed_memory(p.dtype, p.up, division.held())};
      pack_sides(p, division);
      division.run([&](const cpu::MatmulShare& share) { cpu::kernels().linear.lora_backward(p, share); });
    }
    if (wanted[kLoraA]) grad_a = to_type(sum_slots(parts_a), type);
    if (wanted[kLoraB]) {
      grad_b = torch::stable::contiguous(to_type(torch::stable::transpose(sum_slots(parts_b), 0, 1), type));
    }
  }
  return {grad_input, grad_weight, sums.column_sums, grad_a, grad_b};
}

}  // namespace
}  // namespace seo_kernels

STABLE_TORCH_LIBRARY_IMPL(seo_kernels, CPU, m) {
  m.impl("lora_linear_forward", TORCH_BOX(&seo_kernels::lora_linear_forward));
  m.impl("lora_linear_backward", TORCH_BOX(&seo_kernels::lora_linear_backward));
}
