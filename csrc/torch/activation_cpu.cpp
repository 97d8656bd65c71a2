// bias_act and gated_act on the CPU: checks, allocation, division of the rows among threads, registration.
#include <unistd.h>

#include "cpu/kernels.h"
#include "torch/activation_arguments.h"
#include "torch/activation_names.h"
#include "torch/linear_products.h"

namespace seo_kernels {
namespace {

// Entries below which a second thread costs more than it brings.
constexpr int64_t kSerialEntries = 1 << 14;
// Rows of contiguous tensors are joined until they are about this long.
constexpr int64_t kRowEntries = 2048;

int64_t activation_slots(int64_t entries, int64_t rows) {
  if (entries < kSerialEntries) return 1;
  return std::min<int64_t>(torch::stable::get_num_threads(), rows);
}

// Bytes of results beyond which little of them stays in the caches. A last-level cache may be shared with much else,
// other machines included, so it counts up to some times the threads' own caches.
int64_t bytes_beyond_caches() {
  int64_t own = 0, last = 0;  // where the system does not tell, the usual
#if defined(_SC_LEVEL3_CACHE_SIZE)
  static const int64_t level2 = sysconf(_SC_LEVEL2_CACHE_SIZE), level3 = sysconf(_SC_LEVEL3_CACHE_SIZE);
  own = level2;
  last = level3;
#endif
  if (own <= 0) own = int64_t{1} << 20;
  if (last <= 0) last = int64_t{32} << 20;
  return std::min(2 * last, 3 * own * static_cast<int64_t>(torch::stable::get_num_threads()));
}

bool aligned(const MatrixView& view) {
  constexpr uintptr_t kLine = 64;
  return reinterpret_cast<uintptr_t>(view.data) % kLine == 0 &&
         (view.rows == 1 || view.row_stride * element_size(view.dtype) % kLine == 0);
}

// Whether results go past the caches: they are larger, and lie as streaming stores want them.
bool streams(std::initializer_list<MatrixView> results) {
  int64_t bytes = 0;
  for (const MatrixView& view : results) {
    if (!view) continue;
    if (!aligned(view)) return false;
    bytes += view.rows * view.columns * element_size(view.dtype);
  }
  return bytes >= bytes_beyond_caches();
}

// (..., n) as rows of n neighbours; a tensor without dimensions is a row of one.
MatrixView entries_of(Tensor& tensor, const char* name) {
  if (tensor.dim() > 0) return rows_of(tensor, name);
  return {tensor.data_ptr(), dtype_of(tensor, name), 1, 1, 1, 1};
}

// How `joined` rows of the tensors, which follow each other in memory, become one, the last one maybe shorter.
struct Joining {
  int64_t rows, columns, last_columns;

  // unit: the columns that must stay together
  Joining(int64_t rows_before, int64_t columns_before, int64_t unit, bool contiguous)
      : rows(rows_before), columns(columns_before), last_columns(columns_before) {
    const int64_t entries = rows * columns;
    if (!contiguous || entries == 0) return;
    columns = std::min(entries, (kRowEntries + unit - 1) / unit * unit);
    rows = (entries + columns - 1) / columns;
    last_columns = entries - (rows - 1) * columns;
  }

  void apply(MatrixView& view) const {
    if (!view || (view.rows == rows && view.columns == columns)) return;
    view.rows = rows;
    view.columns = columns;
    view.row_stride = columns;
  }
};

bool is_contiguous(const MatrixView& view) { return !view || view.rows <= 1 || view.row_stride == view.columns; }

// The bias in the accumulation type, as often as it fits into a row, and padded.
Tensor repeated_bias(const Tensor& bias, int64_t columns, ScalarType acc) {
  const Tensor one = as_type(bias, acc);
  Tensor repeated = make_tensor(bias, {columns + cpu::kActivationPadding}, acc, true);
  const int64_t n = bias.numel();
  const auto fill = [&](auto zero) {
    using Acc = decltype(zero);
    Acc* to = static_cast<Acc*>(repeated.data_ptr());
    for (int64_t at = 0; at < columns; at += n) {
      std::copy_n(static_cast<const Acc*>(one.data_ptr()), std::min(n, columns - at), to + at);
    }
  };
  acc == ScalarType::Double ? fill(0.0) : fill(0.0f);
  return repeated;
}

// (n,): the sums of the slots, and of the copies within a row, in order.
Tensor folded(const Tensor& parts, int64_t columns, int64_t n, ScalarType type) {
  Tensor sum = make_tensor(parts, {n}, ScalarType::Double, true);
  const double* from = static_cast<const double*>(parts.data_ptr());
  double* to = static_cast<double*>(sum.data_ptr());
  for (int64_t slot = 0; slot < parts.size(0); ++slot) {
    const double* row = from + slot * parts.size(1);
    for (int64_t at = 0; at < columns; at += n) {
      for (int64_t j = 0; j < std::min(n, columns - at); ++j) to[j] += row[at + j];
    }
  }
  return to_type(sum, type);
}

Tensor bias_act_forward(Tensor input, OptionalTensor bias, std::string activation, double negative_slope) {
  check_activation_input(input);
  check_activation_bias(input, bias);
  cpu::BiasActForwardParams p;
  p.activation = activation_of(activation);
  p.negative_slope = negative_slope;
  Tensor out = make_tensor(input, shape_of(input), input.scalar_type());
  if (out.numel() == 0) return out;
  p.input = entries_of(input, "input");
  p.out = entries_of(out, "out");
  const Joining joining(p.input.rows, p.input.columns, bias ? p.input.columns : 1, is_contiguous(p.input));
  joining.apply(p.input);
  joining.apply(p.out);
  p.last_columns = joining.last_columns;
  Tensor repeated;
  if (bias) {
    repeated = repeated_bias(*bias, joining.columns, acc_type_of(input));
    p.bias = repeated.data_ptr();
  }
  p.stream = streams({p.out});
  const int64_t slots = activation_slots(out.numel(), joining.rows);
  for_each_slot(
      slots, [&](int64_t slot) { cpu::kernels().activation.bias_act_forward(p, share(joining.rows, 1, slots, slot)); });
  return out;
}

std::tuple<Tensor, Tensor> bias_act_backward(Tensor grad_out, Tensor input, OptionalTensor bias, std::string activation,
                                             double negative_slope, std::vector<bool> wanted) {
  check_activation_input(input);
  check_activation_bias(input, bias);
  check_same(grad_out, "grad_out", shape_of(input), input);
  check_wanted(wanted, 2);
  cpu::BiasActBackwardParams p;
  p.activation = activation_of(activation);
  p.negative_slope = negative_slope;
  const bool sums = wanted[1] && bias;
  const int64_t n = bias ? bias->numel() : 1;
  Tensor grad_input = wanted[0] ? make_tensor(input, shape_of(input), input.scalar_type()) : absent(input);
  if (input.numel() == 0) {
    return {grad_input, sums ? make_tensor(*bias, {n}, bias->scalar_type(), true) : absent(input)};
  }
  p.input = entries_of(input, "input");
  p.grad_out = entries_of(grad_out, "grad_out");
  if (wanted[0]) p.grad_input = entries_of(grad_input, "grad_input");
  const Joining joining(p.input.rows, p.input.columns, n, is_contiguous(p.input) && is_contiguous(p.grad_out));
  for (MatrixView* view : {&p.input, &p.grad_out, &p.grad_input}) joining.apply(*view);
  p.last_columns = joining.last_columns;
  Tensor repeated, parts;
  if (bias) {
    repeated = repeated_bias(*bias, joining.columns, acc_type_of(input));
    p.bias = repeated.data_ptr();
  }
  const int64_t slots = activation_slots(input.numel(), joining.rows);
  if (sums) {
    parts = make_tensor(input, {slots, joining.columns + cpu::kActivationPadding}, ScalarType::Double, true);
    p.grad_bias = static_cast<double*>(parts.data_ptr());
  }
  p.stream = streams({p.grad_input});
  for_each_slot(slots, [&](int64_t slot) {
    cpu::kernels().activation.bias_act_backward(p, share(joining.rows, 1, slots, slot), slot);
  });
  return {grad_input, sums ? folded(parts, joining.columns, n, bias->scalar_type()) : absent(input)};
}

// The two halves of every row.
std::pair<MatrixView, MatrixView> halves_of(Tensor& tensor, const char* name) {
  const MatrixView both = entries_of(tensor, name);
  const Range rows{0, both.rows};
  const int64_t n = both.columns / 2;
  return {both.block(rows, {0, n}), both.block(rows, {n, 2 * n})};
}

Tensor gated_act_forward(Tensor input, OptionalTensor up, std::string activation) {
  const std::vector<int64_t> shape = gated_shape(input, up);
  cpu::GatedActForwardParams p;
  p.activation = activation_of(activation);
  Tensor out = make_tensor(input, shape, input.scalar_type());
  if (out.numel() == 0) return out;
  if (up) {
    p.gate = entries_of(input, "input");
    p.up = entries_of(*up, "up");
  } else {
    std::tie(p.gate, p.up) = halves_of(input, "input");
  }
  p.out = entries_of(out, "out");
  const Joining joining(p.gate.rows, p.gate.columns, 1, is_contiguous(p.gate) && is_contiguous(p.up));
  for (MatrixView* view : {&p.gate, &p.up, &p.out}) joining.apply(*view);
  p.last_columns = joining.last_columns;
  p.stream = streams({p.out});
  const int64_t slots = activation_slots(out.numel(), joining.rows);
  for_each_slot(slots, [&](int64_t slot) {
    cpu::kernels().activation.gated_act_forward(p, share(joining.rows, 1, slots, slot));
  });
  return out;
}

std::tuple<Tensor, Tensor> gated_act_backward(Tensor grad_out, Tensor input, OptionalTensor up, std::string activation,
                                              std::vector<bool> wanted) {
  const std::vector<int64_t> shape = gated_shape(input, up);
  check_same(grad_out, "grad_out", shape, input);
  check_wanted(wanted, 2);
  cpu::GatedActBackwardParams p;
  p.activation = activation_of(activation);
  Tensor grad_input = wanted[0] ? make_tensor(input, shape_of(input), input.scalar_type()) : absent(input);
  Tensor grad_up = wanted[1] && up ? make_tensor(input, shape, input.scalar_type()) : absent(input);
  if (grad_out.numel() == 0) return {grad_input, grad_up};
  if (up) {
    p.gate = entries_of(input, "input");
    p.up = entries_of(*up, "up");
    if (wanted[0]) p.grad_gate = entries_of(grad_input, "grad_input");
    if (wanted[1]) p.grad_up = entries_of(grad_up, "grad_up");
  } else {
    std::tie(p.gate, p.up) = halves_of(input, "input");
    if (wanted[0]) std::tie(p.grad_gate, p.grad_up) = halves_of(grad_input, "grad_input");
  }
  p.grad_out = entries_of(grad_out, "grad_out");
  bool contiguous = true;
  for (MatrixView* view : {&p.gate, &p.up, &p.grad_out, &p.grad_gate, &p.grad_up}) {
    contiguous = contiguous && is_contiguous(*view);
  }
  const Joining joining(p.gate.rows, p.gate.columns, 1, contiguous);
  for (MatrixView* view : {&p.gate, &p.up, &p.grad_out, &p.grad_gate, &p.grad_up}) joining.apply(*view);
  p.last_columns = joining.last_columns;
  p.stream = streams({p.grad_gate, p.grad_up});
  const int64_t slots = activation_slots(grad_out.numel(), joining.rows);
  for_each_slot(slots, [&](int64_t slot) {
    cpu::kernels().activation.gated_act_backward(p, share(joining.rows, 1, slots, slot));
  });
  return {grad_input, grad_up};
}

}  // namespace
}  // namespace seo_kernels

STABLE_TORCH_LIBRARY_IMPL(seo_kernels, CPU, m) {
  m.impl("bias_act_forward", TORCH_BOX(&seo_kernels::bias_act_forward));
  m.impl("bias_act_backward", TORCH_BOX(&seo_kernels::bias_act_backward));
  m.impl("gated_act_forward", TORCH_BOX(&seo_kernels::gated_act_forward));
  m.impl("gated_act_backward", TORCH_BOX(&seo_kernels::gated_act_backward));
}
