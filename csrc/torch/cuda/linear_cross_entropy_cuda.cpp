// linear_cross_entropy on the GPU: blocks of logits by torch's matrix products, what becomes of them by our kernels.
//
// Forward goes over blocks of tokens, with all classes: a row's log-sum-exp is known at once. Backward goes over blocks
// of classes, with all tokens: the gradients of a block's weights and biases are whole then and rounded once; the
// gradient of the hidden states is summed over the blocks in float32, and is the smaller of the two. Logits, and their
// gradient, exist for a block only. Tokens whose target is ignored are computed too, since nothing is known of them
// here without waiting for the GPU; they give zeros.
//
// On tensor cores (sm80) products are our own, and logits are nowhere in memory: forward's are looked at in registers,
// backward's become their gradient there.
#include <algorithm>

#include "cuda/linear_cross_entropy.h"
#include "cuda/loss.h"
#include "cuda/sm80/linear.h"
#include "cuda/sm90/linear_cross_entropy.h"
#include "torch/cuda/column_sums.h"
#include "torch/cuda/loss_targets.h"
#include "torch/cuda/matmul.h"
#include "torch/cuda/tensor_cores.h"

namespace seo_kernels {
namespace {

// A block's logits take an eighth of the memory of all, within these bounds: less would not fill the GPU.
constexpr int64_t kMostBytes = int64_t{1} << 30;
#if defined(SK_HOST_EXECUTOR)
constexpr int64_t kLeastBytes = 1 << 14;  // so that small problems come in blocks
#else
constexpr int64_t kLeastBytes = 4 << 20;
#endif

// How many of `count` rows (or columns) of so many bytes a block has: a multiple of `step`, all about the same.
int64_t block_size(int64_t count, int64_t bytes_each, int64_t step) {
  const int64_t bytes = std::clamp(count * bytes_each / 8, kLeastBytes, kMostBytes);
  const int64_t fitting = std::max(step, bytes / bytes_each / step * step);
  const int64_t blocks = (count + fitting - 1) / fitting;
  const int64_t even = (count + blocks - 1) / blocks;
  return (even + step - 1) / step * step;
}

int64_t bytes_of(ScalarType type) { return type == ScalarType::Double ? 8 : type == ScalarType::Float ? 4 : 2; }

Tensor columns_of(Tensor matrix, int64_t begin, int64_t count) {
  return torch::stable::narrow(matrix, 1, begin, count);
}
Tensor rows_of(Tensor matrix, int64_t begin, int64_t count) { return torch::stable::narrow(matrix, 0, begin, count); }

// Forward and backward's common arguments.
struct Arguments {
  Tensor hidden, weight, target;
  OptionalTensor bias;
  int64_t tokens, classes, dim;
  ScalarType type, acc;
  const void* bias_data;

  Arguments(Tensor hidden_, Tensor weight_, Tensor target_, OptionalTensor bias_, int64_t ignore_index,
            double label_smoothing)
      : hidden(hidden_), weight(weight_), target(target_), bias(bias_) {
    check_smoothing(label_smoothing);
    check_hidden(hidden, weight);
    tokens = hidden.size(0);
    classes = weight.size(0);
    dim = hidden.size(1);
    type = hidden.scalar_type();
    acc = acc_type_of(hidden);
    bias_data = acc_vector(bias, "bias", classes, acc);
    class_indices(target, tokens);
    check_target_values(target, classes, ignore_index);
  }

  bool on_tensor_cores() const {
    const auto bytes = [] {
      return std::max(cuda::sm80::matmul_shared_bytes(), cuda::sm80::linear_cross_entropy_shared_bytes());
    };
    return decide_tier(dtype_of(hidden, "hidden"), {{Tier::kSm80, bytes}}).tier == Tier::kSm80;
  }

  // Of classes from `begin` on.
  cuda::sm80::ClassScores scores(int64_t begin, int64_t count) {
    matrix_of(weight, "weight");  // where that takes a copy, one of the whole, which stays
    Tensor some_weight = rows_of(weight, begin, count);
    const float* some_bias = bias_data ? static_cast<const float*>(bias_data) + begin : nullptr;
    return {seo_kernels::rows_of(hidden, "hidden"), matrix_of(some_weight, "weight"), some_bias};
  }

  template <class Params>
  Params params(int64_t ignore_index, double label_smoothing) const {
    Params p{};
    p.rows = tokens;
    p.classes = classes;
    p.target = static_cast<const int64_t*>(target.data_ptr());
    p.ignore_index = ignore_index;
    p.label_smoothing = label_smoothing;
    return p;
  }
};

cuda::MatmulParams product_of(const cuda::sm80::ClassScores& scores) {
  return cuda::MatmulParams::with_left_rows(scores.hidden, scores.weight);
}

void forward_on_tensor_cores(Arguments& a, ClassLossForwardParams p, cuda::Stream stream) {
  const int64_t slots = cuda::sm80::score_slots(a.tokens, a.classes);
  const Tensor sums = new_tensor(a.hidden, {slots, a.tokens, 4}, a.acc),
               scores = new_tensor(a.hidden, {a.tokens}, a.acc);
  const cuda::sm80::ScoreSlots into{slots, static_cast<float*>(sums.data_ptr()),
                                    static_cast<float*>(scores.data_ptr())};
  const cuda::sm80::ClassScores of = a.scores(0, a.classes);
  on_warpgroups(product_of(of)) ? cuda::sm90::linear_cross_entropy_forward(p, of, into, stream)
                                : cuda::sm80::linear_cross_entropy_forward(p, of, into, stream);
}

std::tuple<Tensor, Tensor> linear_cross_entropy_forward(Tensor hidden, Tensor weight, Tensor target,
                                                        OptionalTensor bias, int64_t ignore_index,
                                                        double label_smoothing) {
  Arguments a(hidden, weight, target, bias, ignore_index, label_smoothing);
  const DeviceScope device(hidden);
  const Tensor losses = new_tensor(hidden, {a.tokens}, a.acc), lse = new_tensor(hidden, {a.tokens, 2}, a.acc);
  if (a.tokens == 0) return {losses, lse};
  if (a.on_tensor_cores()) {
    auto p = a.params<ClassLossForwardParams>(ignore_index, label_smoothing);
    p.losses = losses.data_ptr();
    p.lse = lse.data_ptr();
    forward_on_tensor_cores(a, p, device.stream);
    return {losses, lse};
  }
  constexpr int64_t kStep = 8, kAligned = 8;
  const int64_t stride = (a.classes + kAligned - 1) / kAligned * kAligned;  // rows begin at multiples of 16 bytes
  const int64_t block = block_size(a.tokens, stride * bytes_of(a.acc), kStep);
  const Tensor memory = new_tensor(hidden, {std::min(block, a.tokens), stride}, a.acc);
  for (int64_t begin = 0; begin < a.tokens; begin += block) {
    const int64_t count = std::min(block, a.tokens - begin);
    Tensor logits = columns_of(rows_of(memory, 0, count), 0, a.classes);
    multiply(rows_of(a.hidden, begin, count), transposed(a.weight), logits);
    auto p = a.params<ClassLossForwardParams>(ignore_index, label_smoothing);
    p.rows = count;
    p.input = matrix_of(logits, "logits");
    p.target += begin;
    p.losses = static_cast<char*>(losses.data_ptr()) + begin * bytes_of(a.acc);
    p.lse = static_cast<char*>(lse.data_ptr()) + 2 * begin * bytes_of(a.acc);
    cuda::class_loss_forward(p, a.bias_data, device.stream);
  }
  return {losses, lse};
}

// The gradient of the hidden states: G W, summed over blocks of classes.
class HiddenGradient {
 public:
  HiddenGradient(const Arguments& a, Tensor out, int64_t blocks) : a_(a), out_(out), sum_(out), part_(out) {
    if (blocks == 1) return;
    if (a.type != a.acc) sum_ = new_tensor(out, {a.tokens, a.dim}, a.acc);
    part_ = new_tensor(out, {a.tokens, a.dim}, a.acc);
  }

  void add(const Tensor& gradients, const Tensor& weight, bool first, bool last, cuda::Stream stream) {
    if (first) return multiply(gradients, weight, sum_);
    multiply(gradients, weight, part_);
    void* to = last && a_.type != a_.acc ? out_.data_ptr() : nullptr;
    cuda::add_rows({a_.tokens, a_.dim, dtype_of(out_, "hidden"), part_.data_ptr(), sum_.data_ptr(), to}, stream);
  }

 private:
  const Arguments& a_;
  Tensor out_, sum_, part_;
};

// Of those that are wanted; the others are empty.
struct Gradients {
  Tensor hidden, weight, bias;  // the latter in the accumulation type
};

// The hidden states, with zeros for ignored tokens: what those hold must not meet their gradient's zeros.
Tensor counted_rows(const Arguments& a, const ClassLossParams& p, cuda::Stream stream) {
  const Tensor counted = new_tensor(a.hidden, {a.tokens, a.dim}, a.type);
  Tensor from = a.hidden;
  cuda::counted_rows({matrix_of(from, "hidden"), p.target, p.ignore_index, counted.data_ptr()}, stream);
  return counted;
}

void backward_on_tensor_cores(Arguments& a, const ClassLossBackwardParams& p, const Gradients& to,
                              cuda::Stream stream) {
  constexpr int64_t kStep = 64, kAligned = 8;
  const bool wants_hidden = to.hidden.numel() > 0, wants_weight = to.weight.numel() > 0,
             wants_bias = to.bias.numel() > 0;
  const int64_t block = block_size(a.classes, a.tokens * bytes_of(a.type), kStep);
  const int64_t stride = (a.dim + kAligned - 1) / kAligned * kAligned;
  const bool several = block < a.classes;
  const Tensor memory = new_tensor(a.hidden, {a.tokens, block}, a.type);
  const Tensor sums = new_tensor(a.hidden, {wants_hidden && several ? a.tokens : 0, stride}, ScalarType::Float);
  const Tensor counted = wants_weight ? counted_rows(a, p, stream) : a.hidden;
  for (int64_t begin = 0; begin < a.classes; begin += block) {
    const int64_t count = std::min(block, a.classes - begin), padded = (count + kAligned - 1) / kAligned * kAligned;
    const cuda::sm80::ClassScores scores = a.scores(begin, count);
    Tensor gradients = columns_of(memory, 0, padded);  // zeros past the classes
    const MatrixView view = matrix_of(gradients, "gradients");
    const cuda::sm80::ScoreGradientsParams differentiated{p, scores, begin, view};
    on_warpgroups(product_of(scores)) ? cuda::sm90::score_gradients(differentiated, stream)
                                      : cuda::sm80::score_gradients(differentiated, stream);
    if (wants_hidden) {
      const cuda::MatmulParams product(view, scores.weight.transposed());
      Tensor out = to.hidden;
      const bool last = begin + count == a.classes;
      if (several) {
        const cuda::sm80::AddProductParams added{product, static_cast<float*>(sums.data_ptr()), stride, begin == 0,
                                                 last ? matrix_of(out, "hidden") : MatrixView{}};
        on_warpgroups(product) ? cuda::sm90::add_product(added, stream) : cuda::sm80::add_product(added, stream);
      } else {
        multiply_on_tensor_cores(product, matrix_of(out, "hidden"), stream);
      }
    }
    if (wants_weight) {
      Tensor from = counted, out = rows_of(to.weight, begin, count);
      multiply_on_tensor_cores({view.transposed(), matrix_of(from, "hidden").transposed()}, matrix_of(out, "weight"),
                               stream);
    }
    if (wants_bias) {
      Tensor some_bias = rows_of(to.bias, begin, count);
      torch::stable::copy_(some_bias, sum_columns(columns_of(memory, 0, count), a.acc, stream));
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
  auto p = a.params<ClassLossBackwardParams>(ignore_index, label_smoothing);
  p.grad_losses = acc_vector(grad_losses, "grad_losses", a.tokens, a.acc);
  check_shape(lse, "lse", {a.tokens, 2});
  lse = as_type(lse, a.acc);
  p.lse = lse.data_ptr();
  const DeviceScope device(hidden);
  const auto gradient = [&](const Tensor& of, bool want, ScalarType type) {
    return new_tensor(of, want ? shape_of(of) : std::vector<int64_t>{0}, type, a.tokens == 0);
  };
  const Tensor grad_hidden = gradient(hidden, wants_hidden, a.type),
               grad_weight = gradient(weight, wants_weight, a.type);
  const Tensor wide_bias = gradient(bias ? *bias : hidden, wants_bias, a.acc);
  const auto gradients = [&] {
    const Tensor grad_bias =
        wants_bias ? torch::stable::to(wide_bias, bias->scalar_type()) : gradient(hidden, false, a.type);
    return std::tuple{grad_hidden, grad_weight, grad_bias};
  };
  if (a.tokens == 0) return gradients();
  if (a.on_tensor_cores()) {
    backward_on_tensor_cores(a, p, {grad_hidden, grad_weight, wide_bias}, device.stream);
    return gradients();
  }

  constexpr int64_t kStep = 64;
  const bool rounds = a.type != a.acc;
  const int64_t bytes = bytes_of(a.acc) + (rounds ? bytes_of(a.type) : 0);
  const int64_t block = block_size(a.classes, a.tokens * bytes, kStep), blocks = (a.classes + block - 1) / block;
  const Tensor logit_memory = new_tensor(hidden, {a.tokens, block}, a.acc);
  const Tensor gradient_memory = rounds ? new_tensor(hidden, {a.tokens, block}, a.type) : logit_memory;
  HiddenGradient hidden_gradient(a, grad_hidden, wants_hidden ? blocks : 1);
  const Tensor counted = wants_weight ? counted_rows(a, p, device.stream) : hidden;
  Tensor ones = wants_bias ? new_tensor(hidden, {1, a.tokens}, a.type) : hidden;
  if (wants_bias) torch::stable::fill_(ones, 1.0);
  for (int64_t begin = 0; begin < a.classes; begin += block) {
    const int64_t count = std::min(block, a.classes - begin);
    const Tensor some_weight = rows_of(a.weight, begin, count);
    Tensor logits = columns_of(logit_memory, 0, count), some_gradients = columns_of(gradient_memory, 0, count);
    multiply(a.hidden, transposed(some_weight), logits);
    p.input = matrix_of(logits, "logits");
    cuda::class_loss_backward(p, {a.bias_data, begin, matrix_of(some_gradients, "gradients")}, device.stream);
    if (wants_hidden) {
      hidden_gradient.add(some_gradients, some_weight, begin == 0, begin + count == a.classes, device.stream);
    }
    if (wants_weight) multiply(transposed(some_gradients), counted, rows_of(grad_weight, begin, count));
    if (wants_bias) multiply(ones, some_gradients, torch::stable::unsqueeze(rows_of(wide_bias, begin, count), 0));
  }
  return gradients();
}

}  // namespace
}  // namespace seo_kernels

STABLE_TORCH_LIBRARY_IMPL(seo_kernels, SK_DISPATCH_KEY, m) {
  m.impl("linear_cross_entropy_forward", TORCH_BOX(&seo_kernels::linear_cross_entropy_forward));
  m.impl("linear_cross_entropy_backward", TORCH_BOX(&seo_kernels::linear_cross_entropy_backward));
}
