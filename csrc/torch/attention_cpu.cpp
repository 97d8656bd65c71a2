// The attention ops on the CPU: allocation, division of the work among threads, registration.
#include <algorithm>

#include "cpu/kernels.h"
#include "torch/attention_arguments.h"
#include "torch/new_tensor.h"
#include "torch/slots.h"

namespace seo_kernels {
namespace {

// Checks the arguments, and fills in the problem and its plan, which lives as long as what is returned.
std::shared_ptr<const PlannedPattern> plan(AttentionArguments& a, cpu::AttentionParams& p) {
  a.prepare(p, true);
  const auto planned = planned_pattern(a.pattern_key(p), a.layout_reader());
  a.find_reach(p, planned->program);
  p.pattern = &planned->program;
  p.plan = &planned->plan;
  return planned;
}

int64_t unit_count(const cpu::AttentionParams& p) { return p.batch * p.query_heads * p.plan->tiles; }

// Contiguous ranges of units of about equal cost (visited panels), at most one per thread.
std::vector<cpu::UnitRange> divide(const cpu::AttentionParams& p) {
  const int64_t units = unit_count(p), tiles = p.plan->tiles, group = p.group();
  const auto cost = [&](int64_t unit) {
    const int64_t head = unit / (tiles * group) % p.key_heads * group + unit / tiles % group;
    return p.plan->panels[p.plan->index(head, unit % tiles)] + 1;
  };
  int64_t total = 0;
  for (int64_t unit = 0; unit < units; ++unit) total += cost(unit);
  const int64_t work = total * p.plan->tile_rows * kPanel * (p.dim + p.value_dim);
  const int64_t slots = std::min(slots_for(work), units);
  std::vector<cpu::UnitRange> ranges;
  int64_t begin = 0, done = 0;
  for (int64_t unit = 0; unit < units; ++unit) {
    done += cost(unit);
    if (done * slots >= total * static_cast<int64_t>(ranges.size() + 1)) {
      ranges.push_back({begin, unit + 1});
      begin = unit + 1;
    }
  }
  return ranges;
}

std::tuple<Tensor, Tensor> attention_forward(Tensor query, Tensor key, Tensor value, std::string pattern,
                                             OptionalTensor layout, OptionalTensor relative_key,
                                             OptionalTensor relative_value, OptionalTensor relative_bias,
                                             OptionalTensor slopes, OptionalTensor mask, OptionalTensor key_lengths,
                                             OptionalTensor query_segments, OptionalTensor key_segments,
                                             OptionalTensor sinks, OptionalTensor seed, double dropout_p, double scale,
                                             double softcap, int64_t query_offset) {
  AttentionArguments a{query,         key,       value, pattern,     layout,         relative_key, relative_value,
                       relative_bias, slopes,    mask,  key_lengths, query_segments, key_segments, sinks,
                       seed,          dropout_p, scale, softcap,     query_offset};
  cpu::AttentionForwardParams p{};
  const auto planned = plan(a, p);
  Tensor out = make_tensor(query, {p.batch, p.query_heads, p.query_length, p.value_dim}, query.scalar_type(), false);
  Tensor lse = make_tensor(query, {p.batch, p.query_heads, p.query_length}, a.acc_type(), false);
  if (unit_count(p) > 0) {
    p.out = view_of(out, "out");
    p.lse = lse.data_ptr();
    const auto ranges = divide(p);
    for_each_slot(static_cast<int64_t>(ranges.size()),
                  [&](int64_t slot) { cpu::kernels().attention.forward(p, ranges[slot]); });
  }
  return {out, lse};
}

class Backward {
 public:
  Backward(AttentionArguments& a, cpu::AttentionMaskGradientParams& p, const std::vector<bool>& wanted)
      : a_(a), p_(p), ranges_(divide(p)), slots_(static_cast<int64_t>(ranges_.size())) {
    for (int n = 0; n < kGradients; ++n) wanted_[n] = wanted[n];
  }

  void run() {
    const ScalarType type = a_.query.scalar_type();
    const std::vector<int64_t> query_shape{p_.batch, p_.query_heads, p_.query_length, p_.dim};
    const std::vector<int64_t> key_shape{p_.batch, p_.key_heads, p_.key_length, p_.dim};
    const std::vector<int64_t> value_shape{p_.batch, p_.key_heads, p_.key_length, p_.value_dim};
    p_.grad_query = output(kQuery, query_shape, type, "grad_query");
    p_.grad_key = output(kKey, key_shape, type, "grad_key");
    p_.grad_value = output(kValue, value_shape, type, "grad_value");
    p_.grad_relative_key = per_slot(kRelativeKey, a_.relative_key);
    p_.grad_relative_value = per_slot(kRelativeValue, a_.relative_value);
    p_.grad_relative_bias = per_slot(kRelativeBias, a_.relative_bias);
    p_.grad_slopes = per_slot(kSlopes, a_.slopes);
    p_.grad_sinks = per_slot(kSinks, a_.sinks);
    if (wanted_[kMask]) allocate_mask_gradient();
    if (slots_ == 0) return;
    if (has_shared_heads()) {
      p_.partial_key = partial(kKey, p_.dim);
      p_.partial_value = partial(kValue, p_.value_dim);
    }
    if (wants_any_but_mask()) {
      for_each_slot(slots_, [&](int64_t slot) { cpu::kernels().attention.backward(p_, ranges_[slot], slot); });
      if (has_shared_heads()) {
        torch::stable::parallel_for(0, p_.batch * p_.key_heads, 1, [&](int64_t begin, int64_t end) {
          cpu::kernels().attention.combine(p_, ranges_.data(), slots_, begin, end);
        });
      }
    }
    if (wanted_[kMask]) mask_gradient();
  }

  // The gradient in the argument's own dtype and shape; an empty tensor when it is not wanted.
  Tensor result(AttentionGradient which, const OptionalTensor& argument) const {
    if (!wanted_[which] || !argument) return make_tensor(a_.query, {0}, a_.query.scalar_type(), false);
    const Tensor& gradient = gradients_[which];
    if (which <= kValue) return gradient;
    std::vector<int64_t> shape;
    for (int64_t n = 0; n < argument->dim(); ++n) shape.push_back(argument->size(n));
    Tensor summed = which == kMask ? gradient : sum_slots(gradient, shape);
    return summed.scalar_type() == argument->scalar_type() ? summed
                                                           : torch::stable::to(summed, argument->scalar_type());
  }

 private:
  bool wants_any_but_mask() const {
    for (int n = 0; n < kGradients; ++n) {
      if (n != kMask && wanted_[n]) return true;
    }
    return false;
  }

  bool has_shared_heads() const {
    const int64_t per_head = p_.group() * p_.plan->tiles;
    return std::any_of(ranges_.begin(), ranges_.end(), [&](const auto& r) { return r.end % per_head != 0; });
  }

  TensorView output(AttentionGradient which, const std::vector<int64_t>& shape, ScalarType type, const char* name) {
    if (!wanted_[which]) return {};
    const bool untouched = slots_ == 0;  // no query: keys get zeros
    gradients_[which] = make_tensor(a_.query, shape, type, untouched);
    return view_of(gradients_[which], name);
  }

  // Zeros (slots, *argument's shape).
  void* per_slot(AttentionGradient which, const OptionalTensor& argument) {
    if (!wanted_[which] || !argument) return nullptr;
    std::vector<int64_t> shape{std::max<int64_t>(slots_, 1)};
    for (int64_t n = 0; n < argument->dim(); ++n) shape.push_back(argument->size(n));
    gradients_[which] = make_tensor(a_.query, shape, a_.acc_type(), true);
    return gradients_[which].data_ptr();
  }

  void* partial(AttentionGradient which, int64_t width) {
    if (!wanted_[which]) return nullptr;
    Tensor& tensor = which == kKey ? partial_key_ : partial_value_;
    tensor = make_tensor(a_.query, {slots_, 2, p_.key_length, width}, a_.acc_type(), false);
    return tensor.data_ptr();
  }

  void allocate_mask_gradient() {
    std::vector<int64_t> shape;
    for (int64_t n = 0; n < 4; ++n) {
      p_.mask_sizes[n] = a_.mask->size(n);
      shape.push_back(p_.mask_sizes[n]);
    }
    gradients_[kMask] = make_tensor(a_.query, shape, a_.acc_type(), true);
    p_.grad_mask = gradients_[kMask].data_ptr();
  }

  void mask_gradient() {
    const int64_t tiles = p_.mask_sizes[2] == 1 ? 1 : p_.plan->tiles;
    torch::stable::parallel_for(0, p_.mask_sizes[0] * p_.mask_sizes[1] * tiles, 1, [&](int64_t begin, int64_t end) {
      cpu::kernels().attention.mask_gradient(p_, begin, end);
    });
  }

  // In slot order: the same result whenever the number of threads is the same.
  template <class Acc>
  static void add_slots(const Tensor& gradient, Tensor& sum) {
    const Acc* from = static_cast<const Acc*>(gradient.data_ptr());
    Acc* to = static_cast<Acc*>(sum.data_ptr());
    const int64_t size = sum.numel();
    for (int64_t slot = 0; slot < gradient.size(0); ++slot) {
      for (int64_t n = 0; n < size; ++n) to[n] += from[slot * size + n];
    }
  }

  Tensor sum_slots(const Tensor& gradient, const std::vector<int64_t>& shape) const {
    Tensor sum = make_tensor(gradient, shape, a_.acc_type(), true);
    a_.acc_type() == ScalarType::Double ? add_slots<double>(gradient, sum) : add_slots<float>(gradient, sum);
    return sum;
  }

  AttentionArguments& a_;
  cpu::AttentionMaskGradientParams& p_;
  std::vector<cpu::UnitRange> ranges_;
  int64_t slots_;
  bool wanted_[kGradients];
  Tensor gradients_[kGradients];
  Tensor partial_key_, partial_value_;
};

using NineTensors = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

NineTensors attention_backward(OptionalTensor grad_out, OptionalTensor grad_lse, Tensor query, Tensor key, Tensor value,
                               Tensor out, Tensor lse, std::string pattern, OptionalTensor layout,
                               OptionalTensor relative_key, OptionalTensor relative_value, OptionalTensor relative_bias,
                               OptionalTensor slopes, OptionalTensor mask, OptionalTensor key_lengths,
                               OptionalTensor query_segments, OptionalTensor key_segments, OptionalTensor sinks,
                               OptionalTensor seed, double dropout_p, double scale, double softcap,
                               int64_t query_offset, std::vector<bool> wanted) {
  AttentionArguments a{query,         key,       value, pattern,     layout,         relative_key, relative_value,
                       relative_bias, slopes,    mask,  key_lengths, query_segments, key_segments, sinks,
                       seed,          dropout_p, scale, softcap,     query_offset};
  check_attention_wanted(wanted, mask);
  cpu::AttentionMaskGradientParams p{};
  const auto planned = plan(a, p);
  check_attention_results(p, out, lse, grad_out, grad_lse);
  p.out = view_of(out, "out");
  if (grad_out) p.grad_out = view_of(*grad_out, "grad_out");
  const Tensor lse_acc = as_type(lse, a.acc_type());
  p.lse = lse_acc.data_ptr();
  if (grad_lse) {
    grad_lse = as_type(*grad_lse, a.acc_type());
    p.grad_lse = grad_lse->data_ptr();
  }
  Backward backward(a, p, wanted);
  backward.run();
  return {backward.result(kQuery, query),
          backward.result(kKey, key),
          backward.result(kValue, value),
          backward.result(kRelativeKey, relative_key),
          backward.result(kRelativeValue, relative_value),
          backward.result(kRelativeBias, relative_bias),
          backward.result(kSlopes, slopes),
          backward.result(kMask, mask),
          backward.result(kSinks, sinks)};
}

}  // namespace
}  // namespace seo_kernels

STABLE_TORCH_LIBRARY_IMPL(seo_kernels, CPU, m) {
  m.impl("attention_forward", TORCH_BOX(&seo_kernels::attention_forward));
  m.impl("attention_backward", TORCH_BOX(&seo_kernels::attention_backward));
}
