#include "torch/attention_arguments.h"

#include <cmath>

namespace seo_kernels {
namespace {

constexpr int64_t kMaxDim = 256;

void check_sizes(const cpu::AttentionParams& p, const AttentionArguments& a) {
  for (const auto& [tensor, name] : {std::pair{&a.query, "query"}, {&a.key, "key"}, {&a.value, "value"}}) {
    if (!tensor->is_cpu()) throw std::invalid_argument(std::string(name) + " is not on the CPU");
    if (tensor->dim() != 4) {
      throw std::invalid_argument(std::string(name) + " has shape " + shape_text(*tensor) +
                                  ", expected (batch, heads, length, dim)");
    }
    if (tensor->scalar_type() != a.query.scalar_type() || dtype_of(*tensor, name) == DType::kBool) {
      throw std::invalid_argument(std::string(name) + " must have the query's floating dtype");
    }
  }
  check_shape(a.key, "key", {p.batch, p.key_heads, p.key_length, p.dim});
  check_shape(a.value, "value", {p.batch, p.key_heads, p.key_length, p.value_dim});
  if (p.key_heads == 0 ? p.query_heads != 0 : p.query_heads % p.key_heads != 0) {
    throw std::invalid_argument("query has " + std::to_string(p.query_heads) + " heads, expected a multiple of key's " +
                                std::to_string(p.key_heads));
  }
  for (const auto& [dim, name] : {std::pair{p.dim, "query"}, {p.value_dim, "value"}}) {
    if (dim < 1 || dim > kMaxDim) {
      throw std::invalid_argument(std::string(name) + " has head dim " + std::to_string(dim) + ", expected 1 to " +
                                  std::to_string(kMaxDim));
    }
  }
}

// (2R+1, width) or (Hq, 2R+1, width)
cpu::RelativeTable table_of(OptionalTensor& tensor, const char* name, const cpu::AttentionParams& p, int64_t width,
                            ScalarType acc) {
  cpu::RelativeTable table;
  if (!tensor) return table;
  const int64_t dims = tensor->dim(), entries = dims >= 2 ? tensor->size(dims - 2) : 0;
  table.per_head = dims == 3;
  if (dims < 2 || dims > 3 || entries % 2 == 0 || tensor->size(dims - 1) != width ||
      (dims == 3 && tensor->size(0) != p.query_heads)) {
    throw std::invalid_argument(std::string(name) + " has shape " + shape_text(*tensor) + ", expected (2R+1, " +
                                std::to_string(width) + ") or (" + std::to_string(p.query_heads) + ", 2R+1, " +
                                std::to_string(width) + ")");
  }
  tensor = as_type(*tensor, acc);
  table.data = tensor->data_ptr();
  table.max_distance = entries / 2;
  return table;
}

cpu::RelativeTable bias_of(OptionalTensor& tensor, const cpu::AttentionParams& p, ScalarType acc) {
  cpu::RelativeTable table;
  if (!tensor) return table;
  if (tensor->dim() != 2 || tensor->size(0) != p.query_heads || tensor->size(1) % 2 == 0) {
    throw std::invalid_argument("relative_bias has shape " + shape_text(*tensor) + ", expected (" +
                                std::to_string(p.query_heads) + ", 2R+1)");
  }
  tensor = as_type(*tensor, acc);
  table.data = tensor->data_ptr();
  table.max_distance = tensor->size(1) / 2;
  table.per_head = true;
  return table;
}

const void* vector_of(OptionalTensor& tensor, const char* name, const cpu::AttentionParams& p, ScalarType acc) {
  if (!tensor) return nullptr;
  check_shape(*tensor, name, {p.query_heads});
  tensor = as_type(*tensor, acc);
  return tensor->data_ptr();
}

const int64_t* integers_of(OptionalTensor& tensor, const char* name, const std::vector<int64_t>& shape) {
  if (!tensor) return nullptr;
  check_shape(*tensor, name, shape);
  if (tensor->scalar_type() != ScalarType::Long) throw std::invalid_argument(std::string(name) + " must be int64");
  tensor = as_type(*tensor, ScalarType::Long);
  return static_cast<const int64_t*>(tensor->data_ptr());
}

void check_mask(const Tensor& mask, const cpu::AttentionParams& p) {
  const int64_t full[4] = {p.batch, p.query_heads, p.query_length, p.key_length};
  bool fits = mask.dim() == 4;
  for (int64_t n = 0; fits && n < 4; ++n) fits = mask.size(n) == full[n] || mask.size(n) == 1;
  if (!fits) {
    throw std::invalid_argument("mask has shape " + shape_text(mask) + ", expected one that broadcasts to (" +
                                std::to_string(full[0]) + ", " + std::to_string(full[1]) + ", " +
                                std::to_string(full[2]) + ", " + std::to_string(full[3]) + ")");
  }
}

void check_key_lengths(const cpu::AttentionParams& p) {
  for (int64_t b = 0; p.key_lengths && b < p.batch; ++b) {
    if (p.key_lengths[b] < 0 || p.key_lengths[b] > p.key_length) {
      throw std::invalid_argument("key_lengths[" + std::to_string(b) + "] is " + std::to_string(p.key_lengths[b]) +
                                  ", expected 0 to the key length " + std::to_string(p.key_length));
    }
  }
}

}  // namespace

void AttentionArguments::prepare(cpu::AttentionParams& p) {
  if (query.dim() != 4 || key.dim() != 4 || value.dim() != 4) {
    throw std::invalid_argument("query, key and value have shapes " + shape_text(query) + ", " + shape_text(key) +
                                ", " + shape_text(value) + ", expected (batch, heads, length, dim)");
  }
  p.batch = query.size(0);
  p.query_heads = query.size(1);
  p.query_length = query.size(2);
  p.dim = query.size(3);
  p.key_heads = key.size(1);
  p.key_length = key.size(2);
  p.value_dim = value.size(3);
  check_sizes(p, *this);
  p.dtype = dtype_of(query, "query");
  p.query = view_of(query, "query");
  p.key = view_of(key, "key");
  p.value = view_of(value, "value");
  if (!std::isfinite(scale)) throw std::invalid_argument("scale is " + std::to_string(scale) + ", expected a number");
  if (!(softcap >= 0.0) || !std::isfinite(softcap)) {
    throw std::invalid_argument("softcap is " + std::to_string(softcap) + ", expected a number of at least 0");
  }
  p.scale = scale;
  p.softcap = softcap;
  p.query_offset = query_offset;

  const ScalarType acc = acc_type();
  p.relative_key = table_of(relative_key, "relative_key", p, p.dim, acc);
  p.relative_value = table_of(relative_value, "relative_value", p, p.value_dim, acc);
  p.relative_bias = bias_of(relative_bias, p, acc);
  p.slopes = vector_of(slopes, "slopes", p, acc);
  p.sinks = vector_of(sinks, "sinks", p, acc);
  if (mask) {
    check_mask(*mask, p);
    p.mask = view_of(*mask, "mask");
  }
  p.key_lengths = integers_of(key_lengths, "key_lengths", {p.batch});
  check_key_lengths(p);
  if (query_segments.has_value() != key_segments.has_value()) {
    throw std::invalid_argument("query_segments and key_segments must be given together");
  }
  p.query_segments = integers_of(query_segments, "query_segments", {p.batch, p.query_length});
  p.key_segments = integers_of(key_segments, "key_segments", {p.batch, p.key_length});

  if (!(dropout_p >= 0.0 && dropout_p < 1.0)) {
    throw std::invalid_argument("dropout_p is " + std::to_string(dropout_p) + ", expected a number in [0, 1)");
  }
  if (dropout_p > 0.0 && !seed) throw std::invalid_argument("seed is missing: dropout_p above 0 needs one");
  p.dropout = dropout_p > 0.0;
  p.dropout_p = dropout_p;
  if (p.dropout) {
    if (seed->scalar_type() != ScalarType::Long || seed->numel() != 1) {
      throw std::invalid_argument("seed has shape " + shape_text(*seed) + ", expected one int64");
    }
    p.seed = static_cast<uint64_t>(*static_cast<const int64_t*>(seed->data_ptr()));
  }

  if (layout) {
    if (layout->scalar_type() != ScalarType::Bool) throw std::invalid_argument("layout must be bool");
    layout = as_type(*layout, ScalarType::Bool);
  }
  planned =
      planned_pattern({pattern, p.query_heads, p.query_length, p.key_length, p.query_offset},
                      layout ? static_cast<const uint8_t*>(layout->data_ptr()) : nullptr, layout ? layout->numel() : 0);
  p.pattern = &planned->program;
  const int64_t furthest = std::max(p.query_length - 1 + p.query_offset, p.key_length - 1 - p.query_offset);
  const int64_t reach = std::min(pattern_reach(*p.pattern), furthest);
  for (cpu::RelativeTable* table : {&p.relative_key, &p.relative_value}) table->clips = reach > table->max_distance;
  p.plan = &planned->plan;
}

}  // namespace seo_kernels
