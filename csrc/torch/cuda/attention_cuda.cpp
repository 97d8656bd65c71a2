// The attention ops on the GPU: allocation, order of the kernels, registration.
#include "torch/attention_arguments.h"
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
  const DeviceScope device(query);
  cuda::AttentionForwardParams p{};
  a.prepare(p, checks_values());
  p.plan = device_plan(a, p, device.stream);
  Tensor out = new_tensor(query, {p.batch, p.query_heads, p.query_length, p.value_dim}, query.scalar_type());
  Tensor lse = new_tensor(query, {p.batch, p.query_heads, p.query_length}, a.acc_type());
  if (lse.numel() == 0) return {out, lse};
  p.out = view_of(out, "out");
  p.lse = lse.data_ptr();
  const RowFacts facts(p, query);
  cuda::attention_rows(p, nullptr, device.stream);
  cuda::attention_forward(p, device.stream);
  return {out, lse};
}

}  // namespace
}  // namespace seo_kernels

STABLE_TORCH_LIBRARY_IMPL(seo_kernels, SK_DISPATCH_KEY, m) {
  m.impl("attention_forward", TORCH_BOX(&seo_kernels::attention_forward));
}
