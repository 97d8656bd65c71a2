// linear_cross_entropy on the CPU: checks, the tokens that count, division of the work, registration.
#include <cstring>
#include <optional>

#include "cpu/kernels.h"
#include "torch/loss_arguments.h"
#include "torch/products.h"

namespace seo_kernels {
namespace {

// Forward and backward's common arguments, with the tokens that count alone.
class Arguments {
 public:
  Arguments(Tensor hidden, Tensor weight, Tensor target, OptionalTensor bias, int64_t ignore_index,
            double label_smoothing)
      : hidden_(hidden), weight_(weight), bias_(bias) {
    check_smoothing(label_smoothing);
    check_hidden(hidden, weight);
    all_tokens = hidden.size(0);
    bias_data_ = acc_vector(bias_, "bias", weight.size(0), acc());
    const int64_t* indices = class_indices(target, all_tokens);
    check_indices(indices, all_tokens, weight.size(0), ignore_index);
    for (int64_t token = 0; token < all_tokens; ++token) {
      if (indices[token] == ignore_index) continue;
      rows.push_back(token);
      targets_.push_back(indices[token]);
    }
    if (static_cast<int64_t>(rows.size()) < all_tokens) hidden_ = counted_rows();
    label_smoothing_ = label_smoothing;
  }

  ScalarType acc() const { return acc_type_of(weight_); }
  int64_t tokens() const { return static_cast<int64_t>(rows.size()); }

  void fill(cpu::LinearCrossEntropyParams& p) {
    p.hidden = matrix_of(hidden_, "hidden");
    p.weight = matrix_of(weight_, "weight");
    p.dtype = p.hidden.dtype;
    p.bias = bias_data_;
    p.target = targets_.data();
    p.label_smoothing = label_smoothing_;
    // Blocks of classes whose weights, twice packed, and their gradient lie in the second-level cache; enough blocks of
    // either kind for all threads.
    constexpr int64_t kMostTokens = 192, kMostClasses = 256, kBlockEntries = 1 << 17, kStep = 64, kTokenStep = 48;
    const int64_t threads = torch::stable::get_num_threads();
    const auto block = [](int64_t wanted, int64_t step, int64_t most) {
      return std::clamp((wanted + step - 1) / step * step, step, most);
    };
    const int64_t fitting = kBlockEntries / std::max<int64_t>(1, p.dim()) / kStep * kStep;
    p.class_block = block((p.classes() + threads - 1) / threads, kStep, std::clamp(fitting, kStep, kMostClasses));
    p.token_block = block((p.tokens() + threads - 1) / threads, kTokenStep, kMostTokens);
  }

  // The rows of the tokens that count, in the accumulation type.
  Tensor of_tokens(const Tensor& all, const char* name, std::vector<int64_t> shape) const {
    check_shape(all, name, shape);
    const Tensor wide = as_type(all, acc());
    if (tokens() == all_tokens) return wide;
    const size_t size = row_bytes(wide);
    shape[0] = tokens();
    Tensor some = make_tensor(wide, shape, acc());
    for (int64_t n = 0; n < tokens(); ++n) {
      std::memcpy(static_cast<char*>(some.data_ptr()) + n * size,
                  static_cast<const char*>(wide.data_ptr()) + rows[n] * size, size);
    }
    return some;
  }

  // The other way round: zeros for tokens that do not count.
  Tensor of_all(const Tensor& some) const {
    if (tokens() == all_tokens) return some;
    const size_t size = row_bytes(some);
    std::vector<int64_t> shape = shape_of(some);
    shape[0] = all_tokens;
    Tensor all = make_tensor(some, shape, acc(), true);
    for (int64_t n = 0; n < tokens(); ++n) {
      std::memcpy(static_cast<char*>(all.data_ptr()) + rows[n] * size,
                  static_cast<const char*>(some.data_ptr()) + n * size, size);
    }
    return all;
  }

  int64_t all_tokens;
  std::vector<int64_t> rows;  // of the tokens that count

 private:
  static size_t row_bytes(const Tensor& tensor) {
    return tensor.element_size() * static_cast<size_t>(tensor.dim() == 1 ? 1 : tensor.size(1));
  }

  Tensor counted_rows() const {
    const Tensor from = hidden_.is_contiguous() ? hidden_ : torch::stable::contiguous(hidden_);
    Tensor to = make_tensor(from, {tokens(), from.size(1)}, from.scalar_type());
    const int64_t bytes = from.size(1) * static_cast<int64_t>(from.element_size());
    over_items(tokens(), from.size(1), [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) {
        std::memcpy(static_cast<char*>(to.data_ptr()) + n * bytes,
                    static_cast<const char*>(from.data_ptr()) + rows[n] * bytes, bytes);
      }
    });
    return to;
  }

  Tensor hidden_, weight_;
  OptionalTensor bias_;
  const void* bias_data_;
  std::vector<int64_t> targets_;
  double label_smoothing_;
};

std::tuple<Tensor, Tensor> linear_cross_entropy_forward(Tensor hidden, Tensor weight, Tensor target,
                                                        OptionalTensor bias, int64_t ignore_index,
                                                        double label_smoothing) {
  Arguments a(hidden, weight, target, bias, ignore_index, label_smoothing);
  cpu::LinearCrossEntropyForwardParams p{};
  a.fill(p);
  const Tensor losses = make_tensor(hidden, {a.tokens()}, a.acc()), lse = make_tensor(hidden, {a.tokens(), 2}, a.acc());
  if (a.tokens() > 0) {
    const int64_t threads = torch::stable::get_num_threads();
    p.parts = std::min(threads, p.class_blocks());
    const int64_t token_parts = std::clamp<int64_t>(threads / p.parts, 1, p.token_blocks());
    const auto of_parts = [&] { return make_tensor(hidden, {p.parts, a.tokens()}, a.acc()); };
    const Tensor largest = of_parts(), sum = of_parts(), target_logit = make_tensor(hidden, {a.tokens()}, a.acc());
    std::optional<Tensor> total;
    if (label_smoothing > 0) total = of_parts();
    p.largest = largest.data_ptr();
    p.sum = sum.data_ptr();
    p.total = total ? total->data_ptr() : nullptr;
    p.target_logit = target_logit.data_ptr();
    p.losses = losses.data_ptr();
    p.lse = lse.data_ptr();
    const auto& kernels = cpu::kernels().linear_cross_entropy;
    for_each_slot(p.parts * token_parts, [&](int64_t slot) {
      const int64_t part = slot / token_parts;
      kernels.forward(p, part, share(p.class_blocks(), 1, p.parts, part),
                      share(p.token_blocks(), 1, token_parts, slot % token_parts));
    });
    over_items(a.tokens(), p.parts, [&](int64_t begin, int64_t end) { kernels.combine(p, {begin, end}); });
  }
  return {a.of_all(losses), a.of_all(lse)};
}

// Threads take a block of classes each, and a share of the tokens each, which they pass on in turn: nobody adds to what
// another one adds to at the same time, and every sum has one order.
void run_steps(const cpu::LinearCrossEntropyBackwardParams& p, const Tensor& like) {
  const auto& kernels = cpu::kernels().linear_cross_entropy;
  const int64_t slots = std::min<int64_t>({torch::stable::get_num_threads(), p.class_blocks(), p.token_blocks()});
  const int64_t bytes = kernels.step_bytes(p);
  const Tensor memory = make_tensor(like, {slots * bytes}, ScalarType::Byte);
  for (int64_t block = 0; block < p.class_blocks(); block += slots) {
    for (int64_t turn = 0; turn < slots; ++turn) {
      for_each_slot(std::min(slots, p.class_blocks() - block), [&](int64_t slot) {
        kernels.backward(
            p, {block + slot, share(p.token_blocks(), 1, slots, (slot + turn) % slots), turn == 0, turn + 1 == slots,
                block + turn > 0, static_cast<char*>(memory.data_ptr()) + slot * bytes});
      });
    }
  }
}

std::tuple<Tensor, Tensor, Tensor> linear_cross_entropy_backward(Tensor grad_losses, Tensor hidden, Tensor weight,
                                                                 Tensor target, OptionalTensor bias,
                                                                 int64_t ignore_index, double label_smoothing,
                                                                 Tensor lse, std::vector<bool> wanted) {
  check_wanted(wanted, 3);
  const bool wants_hidden = wanted[0], wants_weight = wanted[1], wants_bias = wanted[2] && bias;
  Arguments a(hidden, weight, target, bias, ignore_index, label_smoothing);
  cpu::LinearCrossEntropyBackwardParams p{};
  a.fill(p);
  const auto gradient = [&](const Tensor& of, bool want) {
    return make_tensor(of, want ? shape_of(of) : std::vector<int64_t>{0}, of.scalar_type(), a.tokens() == 0);
  };
  if (a.tokens() == 0) {
    return {gradient(hidden, wants_hidden), gradient(weight, wants_weight),
            gradient(bias ? *bias : hidden, wants_bias)};
  }
  const auto& kernels = cpu::kernels().linear_cross_entropy;
  const Tensor grads = a.of_tokens(grad_losses, "grad_losses", {a.all_tokens});
  const Tensor some_lse = a.of_tokens(lse, "lse", {a.all_tokens, 2});
  p.grad_losses = grads.data_ptr();
  p.lse = some_lse.data_ptr();
  Tensor grad_weight = gradient(weight, wants_weight), packed_hidden = grad_weight;
  if (wants_weight) {
    p.grad_weight = matrix_of(grad_weight, "grad_weight");
    packed_hidden = make_tensor(hidden, {kernels.packed_bytes(p)}, ScalarType::Byte);
    p.packed_hidden = packed_hidden.data_ptr();
    over_items(p.token_blocks(), p.token_block * p.dim(),
               [&](int64_t begin, int64_t end) { kernels.pack_hidden(p, {begin, end}); });
  }
  const Tensor grad_bias = make_tensor(hidden, {wants_bias ? p.classes() : 0}, a.acc());
  p.grad_bias = wants_bias ? grad_bias.data_ptr() : nullptr;
  // The sums are the gradient itself where they have its form.
  const int64_t width = kernels.sum_width(p.dtype, p.dim());
  const bool direct = wants_hidden && hidden.scalar_type() == a.acc() && width == p.dim() && a.tokens() == a.all_tokens;
  Tensor grad_hidden = make_tensor(hidden, wants_hidden ? shape_of(hidden) : std::vector<int64_t>{0},
                                   hidden.scalar_type(), a.tokens() < a.all_tokens);
  const Tensor sums = wants_hidden && !direct ? make_tensor(hidden, {a.tokens(), width}, a.acc()) : grad_hidden;
  p.sum_hidden = wants_hidden ? sums.data_ptr() : nullptr;
  run_steps(p, hidden);
  if (wants_hidden && !direct) {
    const MatrixView to = matrix_of(grad_hidden, "grad_hidden");
    over_items(a.tokens(), p.dim(),
               [&](int64_t begin, int64_t end) { kernels.store_hidden(p, to, a.rows.data(), {begin, end}); });
  }
  return {grad_hidden, grad_weight,
          wants_bias ? torch::stable::to(grad_bias, bias->scalar_type()) : gradient(hidden, false)};
}

}  // namespace
}  // namespace seo_kernels

STABLE_TORCH_LIBRARY_IMPL(seo_kernels, CPU, m) {
  m.impl("linear_cross_entropy_forward", TORCH_BOX(&seo_kernels::linear_cross_entropy_forward));
  m.impl("linear_cross_entropy_backward", TORCH_BOX(&seo_kernels::linear_cross_entropy_backward));
}
