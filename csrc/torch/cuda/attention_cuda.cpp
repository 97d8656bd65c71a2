// The attention ops on the GPU: allocation, order of the kernels, registration.
#include "cuda/sm80/attention.h"
#include "cuda/sm90/attention.h"
#include "torch/attention_arguments.h"
#include "torch/cuda/attention_tier.h"
#include "torch/cuda/device.h"
#include "torch/cuda/device_plan.h"

namespace seo_kernels {
namespace {

ScalarType type_of(DType dtype) { return dtype == DType::kFloat64 ? ScalarType::Double : ScalarType::Float; }

// What attention_rows fills in, as long as kernels are started.
struct RowFacts {
  Tensor query_ranges, key_ranges, ends;

  RowFacts(cuda::AttentionParams& p, const Tensor& like) {
    if (p.key_segments) {
      query_ranges = new_tensor(like, {p.batch, p.plan.tiles, 2}, ScalarType::Long);
      key_ranges = new_tensor(like, {p.batch, p.plan.panels, 2}, ScalarType::Long);
      p.query_ranges = static_cast<cuda::SegmentRange*>(query_ranges.data_ptr());
      p.key_ranges = static_cast<cuda::SegmentRange*>(key_ranges.data_ptr());
    }
    if (p.relative_key || p.relative_value) {
      ends = new_tensor(like, {p.batch, p.query_heads, p.query_length, 4}, type_of(p.dtype));
      p.row_ends = ends.data_ptr();
    }
  }
};

// Relative tables as tensor cores read them, as long as kernels are started.
struct NarrowTables {
  Tensor key, value;

  NarrowTables(cuda::AttentionParams& p, const Tensor& like, cuda::Stream stream) {
    p.narrow_key = narrow(key, p, p.relative_key, p.dim, like, stream);
    p.narrow_value = narrow(value, p, p.relative_value, p.value_dim, like, stream);
  }

 private:
  static void* narrow(Tensor& to, const cuda::AttentionParams& p, const RelativeTable& table, int64_t width,
                      const Tensor& like, cuda::Stream stream) {
    if (!table) return nullptr;
    const int64_t heads = table.per_head ? p.query_heads : 1;
    to = new_tensor(like, {heads, table.rows(), cuda::narrow_ld(width)}, like.scalar_type());
    cuda::sm80::narrow_table(p.dtype, table, p.query_heads, width, to.data_ptr(), stream);
    return to.data_ptr();
  }
};

// Checks the arguments and fills in the problem. The query may be on any device until then.
void prepare(AttentionArguments& a, cuda::AttentionParams& p) {
  a.prepare(p, checks_values());
  constexpr int64_t most = int64_t{1} << 30;  // kernels count in 32 bits
  if (p.batch > most || p.query_heads > most || p.query_length > most || p.key_length > most) {
    throw std::invalid_argument("query has shape " + shape_text(a.query) + " and key " + shape_text(a.key) +
                                ", expected batch, heads and lengths of at most 2^30");
  }
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
  cuda::AttentionForwardParams p{};
  prepare(a, p);
  const DeviceScope device(query);
  const TierChoice choice = forward_tier(p);
  p.plan = device_plan(a, p, device.stream, choice.tile_rows);
  Tensor out = new_tensor(query, {p.batch, p.query_heads, p.query_length, p.value_dim}, query.scalar_type());
  Tensor lse = new_tensor(query, {p.batch, p.query_heads, p.query_length}, a.acc_type());
  if (lse.numel() == 0) return {out, lse};
  p.out = view_of(out, "out");
  p.lse = lse.data_ptr();
  const RowFacts facts(p, query);
  cuda::attention_rows(p, nullptr, device.stream);
  if (choice.tier == Tier::kSimt) {
    cuda::attention_forward(p, device.stream);
  } else {
    const NarrowTables tables(p, query, device.stream);
    if (choice.tier == Tier::kSm90a) {
      const Tensor taken = new_tensor(query, {1}, ScalarType::Int);
      p.taken = static_cast<unsigned*>(taken.data_ptr());
      cuda::sm90::attention_forward(p, device.stream);
    } else {
      cuda::sm80::attention_forward(p, device.stream);
    }
  }
  return {out, lse};
}

std::tuple<std::string, int64_t, std::string> attention_tier(
    Tensor query, Tensor key, Tensor value, std::string pattern, OptionalTensor layout, OptionalTensor relative_key,
    OptionalTensor relative_value, OptionalTensor relative_bias, OptionalTensor slopes, OptionalTensor mask,
    OptionalTensor key_lengths, OptionalTensor query_segments, OptionalTensor key_segments, OptionalTensor sinks,
    OptionalTensor seed, double dropout_p, double scale, double softcap, int64_t query_offset) {
  AttentionArguments a{query,         key,       value, pattern,     layout,         relative_key, relative_value,
                       relative_bias, slopes,    mask,  key_lengths, query_segments, key_segments, sinks,
                       seed,          dropout_p, scale, softcap,     query_offset};
  cuda::AttentionParams p{};
  prepare(a, p);
  const DeviceScope device(query);
  const TierChoice choice = forward_tier(p);
  return {name_of(choice.tier), choice.tile_rows, choice.why};
}

class Backward {
 public:
  Backward(AttentionArguments& a, cuda::AttentionBackwardParams& p, const std::vector<bool>& wanted)
      : a_(a), p_(p), empty_(p.batch * p.query_heads * p.query_length == 0) {
    for (int n = 0; n < kGradients; ++n) wanted_[n] = wanted[n];
  }

  void run(cuda::Stream stream) {
    const ScalarType type = a_.query.scalar_type();
    p_.grad_query = output(kQuery, {p_.batch, p_.query_heads, p_.query_length, p_.dim}, type, "grad_query");
    p_.grad_key = output(kKey, {p_.batch, p_.key_heads, p_.key_length, p_.dim}, type, "grad_key");
    p_.grad_value = output(kValue, {p_.batch, p_.key_heads, p_.key_length, p_.value_dim}, type, "grad_value");
    p_.parts = parts();
    p_.slot_relative_key = slots(kRelativeKey, a_.relative_key, p_.relative_key.rows() * p_.dim);
    p_.slot_relative_value = slots(kRelativeValue, a_.relative_value, p_.relative_value.rows() * p_.value_dim);
    p_.slot_relative_bias = slots(kRelativeBias, a_.relative_bias, p_.relative_bias.rows());
    p_.slot_slopes = slots(kSlopes, a_.slopes, 1);
    p_.slot_sinks = slots(kSinks, a_.sinks, 1);
    if (wanted_[kMask]) allocate_mask_gradient();
    if (empty_) return;
    const RowFacts facts(p_, a_.query);
    const Tensor delta = new_tensor(a_.query, {p_.batch, p_.query_heads, p_.query_length}, a_.acc_type());
    p_.delta = delta.data_ptr();
    cuda::attention_rows(p_, &p_, stream);
    const Tier tier = backward_tier(p_).tier;
    if (tier == Tier::kSimt) {
      if (p_.grad_key || p_.grad_value) cuda::attention_key_gradients(p_, stream);
      if (p_.grad_query || p_.wants_tables()) cuda::attention_query_gradients(p_, stream);
      if (p_.grad_mask) cuda::attention_mask_gradient(p_, stream);
    } else {
      run_on_tensor_cores(tier, stream);
    }
    for (int which = kRelativeKey; which < kGradients; ++which) {
      if (which != kMask && gradients_[which].defined()) sum_slots(gradients_[which], per_head_[which], stream);
    }
  }

  // The gradient in the argument's own dtype and shape; an empty tensor when it is not wanted.
  Tensor result(AttentionGradient which, const OptionalTensor& argument) const {
    if (!wanted_[which] || !argument) return new_tensor(a_.query, {0}, a_.query.scalar_type());
    const Tensor& gradient = gradients_[which];
    if (which <= kValue) return gradient;
    const Tensor typed = gradient.scalar_type() == argument->scalar_type()
                             ? gradient
                             : torch::stable::to(gradient, argument->scalar_type());
    const std::vector<int64_t> shape = shape_of(*argument);
    return torch::stable::view(typed, torch::headeronly::IntHeaderOnlyArrayRef(shape.data(), shape.size()));
  }

 private:
  void run_on_tensor_cores(Tier tier, cuda::Stream stream) {
    const NarrowTables tables(p_, a_.query, stream);
    if (tier == Tier::kSm90a) {
      if (p_.grad_key || p_.grad_value) cuda::sm90::attention_key_gradients(p_, stream);
      if (p_.grad_query) cuda::sm90::attention_query_gradients(p_, stream);
    } else {
      if (p_.grad_key || p_.grad_value) cuda::sm80::attention_key_gradients(p_, stream);
      if (p_.grad_query) cuda::sm80::attention_query_gradients(p_, stream);
    }
    // of what queries share they are sm80's in either tier: sums in slots, whose number does not depend on the kernels
    if (p_.slot_relative_key || p_.slot_relative_value) cuda::sm80::attention_table_gradients(p_, stream);
    if (p_.slot_relative_bias || p_.slot_slopes) cuda::sm80::attention_bias_gradients(p_, stream);
    if (p_.slot_sinks) cuda::sm80::attention_sink_gradients(p_, stream);
    if (p_.grad_mask) cuda::sm80::attention_mask_gradient(p_, stream);
  }

  // Slots of a head: enough of them to keep a GPU busy, few enough that their copies of the tables stay small. The
  // number must not depend on the device: sums would.
  int64_t parts() const {
    constexpr int64_t most_slots = 512, most_bytes = int64_t{64} << 20;
    const int64_t units = p_.batch * p_.plan.tiles;
    if (!wants_tables() || empty_) return units;
    int64_t bytes = 0;
    if (wanted_[kRelativeKey]) bytes += p_.relative_key.rows() * p_.dim;
    if (wanted_[kRelativeValue]) bytes += p_.relative_value.rows() * p_.value_dim;
    if (wanted_[kRelativeBias]) bytes += p_.relative_bias.rows();
    bytes *= p_.dtype == DType::kFloat64 ? 8 : 4;
    int64_t slots = most_slots;
    if (bytes > 0) slots = std::min(slots, most_bytes / bytes);
    return std::clamp<int64_t>(slots / p_.query_heads, 1, (units + 1) / 2);
  }

  bool wants_tables() const {
    return wanted_[kRelativeKey] || wanted_[kRelativeValue] || wanted_[kRelativeBias] || wanted_[kSlopes] ||
           wanted_[kSinks];
  }

  TensorView output(AttentionGradient which, const std::vector<int64_t>& shape, ScalarType type, const char* name) {
    if (!wanted_[which]) return {};
    gradients_[which] = new_tensor(a_.query, shape, type, empty_);  // no query: keys get zeros
    return gradients_[which].numel() > 0 ? view_of(gradients_[which], name) : TensorView{};
  }

  // Zeros (Hq * parts, what belongs to one head).
  void* slots(AttentionGradient which, const OptionalTensor& argument, int64_t size) {
    if (!wanted_[which] || !argument) return nullptr;
    per_head_[which] = argument->numel() == p_.query_heads * size;
    const int64_t count = empty_ ? argument->numel() / size : p_.query_heads * p_.parts;
    gradients_[which] = new_tensor(a_.query, {count, size}, a_.acc_type(), true);
    return gradients_[which].data_ptr();
  }

  void sum_slots(Tensor& slots, bool per_head, cuda::Stream stream) const {
    const int64_t groups = per_head ? p_.query_heads : 1, size = slots.size(1);
    const Tensor sum = new_tensor(slots, {groups, size}, a_.acc_type());
    cuda::sum_parts({p_.dtype, groups, p_.query_heads * p_.parts / groups, size, slots.data_ptr(), sum.data_ptr()},
                    stream);
    slots = sum;
  }

  void allocate_mask_gradient() {
    const std::vector<int64_t> shape = shape_of(*a_.mask);
    std::copy(shape.begin(), shape.end(), p_.mask_sizes);
    gradients_[kMask] = new_tensor(a_.query, shape, a_.acc_type(), empty_);
    p_.grad_mask = gradients_[kMask].data_ptr();
  }

  AttentionArguments& a_;
  cuda::AttentionBackwardParams& p_;
  bool empty_;
  bool wanted_[kGradients], per_head_[kGradients] = {};
  Tensor gradients_[kGradients];
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
  cuda::AttentionBackwardParams p{};
  prepare(a, p);
  const DeviceScope device(query);
  p.plan = device_plan(a, p, device.stream);
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
  backward.run(device.stream);
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

STABLE_TORCH_LIBRARY_IMPL(seo_kernels, SK_DISPATCH_KEY, m) {
  m.impl("attention_forward", TORCH_BOX(&seo_kernels::attention_forward));
  m.impl("attention_tier", TORCH_BOX(&seo_kernels::attention_tier));
  m.impl("attention_backward", TORCH_BOX(&seo_kernels::attention_backward));
}
