// The arguments of the attention ops, checked and turned into kernel parameters: the same on every device.
#pragma once

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <utility>

#include "params/attention_problem.h"
#include "params/tile_plan.h"
#include "torch/tensors.h"

namespace seo_kernels {

// Order of `wanted` and of the gradients that attention_backward returns.
enum AttentionGradient {
  kQuery,
  kKey,
  kValue,
  kRelativeKey,
  kRelativeValue,
  kRelativeBias,
  kSlopes,
  kMask,
  kSinks,
  kGradients
};

// Everything that forward and backward have in common. Keeps converted tensors alive while kernels are started.
struct AttentionArguments {
  Tensor query, key, value;
  std::string pattern;
  OptionalTensor layout, relative_key, relative_value, relative_bias, slopes, mask, key_lengths, query_segments,
      key_segments, sinks, seed;
  double dropout_p, scale, softcap;
  int64_t query_offset;

  // Checks every argument but the pattern (std::invalid_argument) and converts tables to the accumulation type.
  // values: what tensors hold is checked too, for which a device is waited for.
  void prepare(AttentionProblem& problem, bool values);

  // Given the pattern: whether tables are left at their ends.
  static void find_reach(AttentionProblem& problem, const PatternProgram& program);

  PatternKey pattern_key(const AttentionProblem& problem) const {
    return {pattern, problem.query_heads, problem.query_length, problem.key_length, problem.query_offset};
  }

  LayoutReader layout_reader() const { return layout_reader(layout); }
  static LayoutReader layout_reader(const OptionalTensor& layout);

  ScalarType acc_type() const {
    return query.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  }

 private:
  void check_operands(const AttentionProblem& problem) const;
  void check_devices() const;
  void check_mask(const AttentionProblem& problem) const;
  void check_key_lengths(const AttentionProblem& problem) const;
  void set_seed(AttentionProblem& problem);
  RelativeTable table_of(OptionalTensor& tensor, const char* name, const AttentionProblem& problem,
                         int64_t width) const;
  RelativeTable bias_of(OptionalTensor& tensor, const AttentionProblem& problem) const;
  const void* vector_of(OptionalTensor& tensor, const char* name, const AttentionProblem& problem) const;
};

inline void AttentionArguments::check_operands(const AttentionProblem& p) const {
  constexpr int64_t most = 256;
  for (const auto& [tensor, name] : {std::pair{&query, "query"}, {&key, "key"}, {&value, "value"}}) {
    if (tensor->scalar_type() != query.scalar_type() || dtype_of(*tensor, name) == DType::kBool) {
      throw std::invalid_argument(std::string(name) + " must have the query's floating dtype");
    }
  }
  check_shape(key, "key", {p.batch, p.key_heads, p.key_length, p.dim});
  check_shape(value, "value", {p.batch, p.key_heads, p.key_length, p.value_dim});
  if (p.key_heads == 0 ? p.query_heads != 0 : p.query_heads % p.key_heads != 0) {
    throw std::invalid_argument("query has " + std::to_string(p.query_heads) + " heads, expected a multiple of key's " +
                                std::to_string(p.key_heads));
  }
  for (const auto& [dim, name] : {std::pair{p.dim, "query"}, {p.value_dim, "value"}}) {
    if (dim < 1 || dim > most) {
      throw std::invalid_argument(std::string(name) + " has head dim " + std::to_string(dim) + ", expected 1 to " +
                                  std::to_string(most));
    }
  }
}

// A layout may lie anywhere: it is part of the plan.
inline void AttentionArguments::check_devices() const {
  const auto check = [&](const Tensor& tensor, const char* name) {
    if (tensor.device() != query.device()) {
      throw std::invalid_argument(std::string(name) + " is on another device than query");
    }
  };
  check(key, "key");
  check(value, "value");
  for (const auto& [tensor, name] : {std::pair{&relative_key, "relative_key"},
                                     {&relative_value, "relative_value"},
                                     {&relative_bias, "relative_bias"},
                                     {&slopes, "slopes"},
                                     {&mask, "mask"},
                                     {&key_lengths, "key_lengths"},
                                     {&query_segments, "query_segments"},
                                     {&key_segments, "key_segments"},
                                     {&sinks, "sinks"},
                                     {&seed, "seed"}}) {
    if (*tensor) check(**tensor, name);
  }
}

// (2R+1, width) or (Hq, 2R+1, width)
inline RelativeTable AttentionArguments::table_of(OptionalTensor& tensor, const char* name, const AttentionProblem& p,
                                                  int64_t width) const {
  RelativeTable table;
  if (!tensor) return table;
  const int64_t dims = tensor->dim(), entries = dims >= 2 ? tensor->size(dims - 2) : 0;
  table.per_head = dims == 3;
  if (dims < 2 || dims > 3 || entries % 2 == 0 || tensor->size(dims - 1) != width ||
      (dims == 3 && tensor->size(0) != p.query_heads)) {
    throw std::invalid_argument(std::string(name) + " has shape " + shape_text(*tensor) + ", expected (2R+1, " +
                                std::to_string(width) + ") or (" + std::to_string(p.query_heads) + ", 2R+1, " +
                                std::to_string(width) + ")");
  }
  tensor = as_type(*tensor, acc_type());
  table.data = tensor->data_ptr();
  table.max_distance = entries / 2;
  return table;
}

inline RelativeTable AttentionArguments::bias_of(OptionalTensor& tensor, const AttentionProblem& p) const {
  RelativeTable table;
  if (!tensor) return table;
  if (tensor->dim() != 2 || tensor->size(0) != p.query_heads || tensor->size(1) % 2 == 0) {
    throw std::invalid_argument("relative_bias has shape " + shape_text(*tensor) + ", expected (" +
                                std::to_string(p.query_heads) + ", 2R+1)");
  }
  tensor = as_type(*tensor, acc_type());
  table.data = tensor->data_ptr();
  table.max_distance = tensor->size(1) / 2;
  table.per_head = true;
  return table;
}

inline const void* AttentionArguments::vector_of(OptionalTensor& tensor, const char* name,
                                                 const AttentionProblem& p) const {
  if (!tensor) return nullptr;
  check_shape(*tensor, name, {p.query_heads});
  tensor = as_type(*tensor, acc_type());
  return tensor->data_ptr();
}

inline const int64_t* integers_of(OptionalTensor& tensor, const char* name, const std::vector<int64_t>& shape) {
  if (!tensor) return nullptr;
  check_shape(*tensor, name, shape);
  if (tensor->scalar_type() != ScalarType::Long) throw std::invalid_argument(std::string(name) + " must be int64");
  tensor = as_type(*tensor, ScalarType::Long);
  return static_cast<const int64_t*>(tensor->data_ptr());
}

inline void AttentionArguments::check_mask(const AttentionProblem& p) const {
  const int64_t full[4] = {p.batch, p.query_heads, p.query_length, p.key_length};
  bool fits = mask->dim() == 4;
  for (int64_t n = 0; fits && n < 4; ++n) fits = mask->size(n) == full[n] || mask->size(n) == 1;
  if (!fits) {
    throw std::invalid_argument("mask has shape " + shape_text(*mask) + ", expected one that broadcasts to (" +
                                std::to_string(full[0]) + ", " + std::to_string(full[1]) + ", " +
                                std::to_string(full[2]) + ", " + std::to_string(full[3]) + ")");
  }
}

inline void AttentionArguments::check_key_lengths(const AttentionProblem& p) const {
  const Tensor lengths =
      key_lengths->is_cpu() ? *key_lengths : torch::stable::to(*key_lengths, torch::headeronly::DeviceType::CPU);
  const int64_t* length = static_cast<const int64_t*>(lengths.data_ptr());
  for (int64_t b = 0; b < p.batch; ++b) {
    if (length[b] < 0 || length[b] > p.key_length) {
      throw std::invalid_argument("key_lengths[" + std::to_string(b) + "] is " + std::to_string(length[b]) +
                                  ", expected 0 to the key length " + std::to_string(p.key_length));
    }
  }
}

inline void AttentionArguments::set_seed(AttentionProblem& p) {
  if (!(dropout_p >= 0.0 && dropout_p < 1.0)) {
    throw std::invalid_argument("dropout_p is " + std::to_string(dropout_p) + ", expected a number in [0, 1)");
  }
  if (dropout_p > 0.0 && !seed) throw std::invalid_argument("seed is missing: dropout_p above 0 needs one");
  p.dropout = dropout_p > 0.0;
  p.dropout_p = dropout_p;
  if (!p.dropout) return;
  if (seed->scalar_type() != ScalarType::Long || seed->numel() != 1) {
    throw std::invalid_argument("seed has shape " + shape_text(*seed) + ", expected one int64");
  }
  p.seed = static_cast<const int64_t*>(seed->data_ptr());
}

inline void AttentionArguments::prepare(AttentionProblem& p, bool values) {
  if (query.dim() != 4 || key.dim() != 4 || value.dim() != 4) {
    throw std::invalid_argument("query, key and value have shapes " + shape_text(query) + ", " + shape_text(key) +
                                ", " + shape_text(value) + ", expected (batch, heads, length, dim)");
  }
  check_devices();
  p.batch = query.size(0);
  p.query_heads = query.size(1);
  p.query_length = query.size(2);
  p.dim = query.size(3);
  p.key_heads = key.size(1);
  p.key_length = key.size(2);
  p.value_dim = value.size(3);
  check_operands(p);
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

  p.relative_key = table_of(relative_key, "relative_key", p, p.dim);
  p.relative_value = table_of(relative_value, "relative_value", p, p.value_dim);
  p.relative_bias = bias_of(relative_bias, p);
  p.slopes = vector_of(slopes, "slopes", p);
  p.sinks = vector_of(sinks, "sinks", p);
  if (mask) {
    check_mask(p);
    p.mask = view_of(*mask, "mask");
  }
  p.key_lengths = integers_of(key_lengths, "key_lengths", {p.batch});
  if (key_lengths && values) check_key_lengths(p);
  if (query_segments.has_value() != key_segments.has_value()) {
    throw std::invalid_argument("query_segments and key_segments must be given together");
  }
  p.query_segments = integers_of(query_segments, "query_segments", {p.batch, p.query_length});
  p.key_segments = integers_of(key_segments, "key_segments", {p.batch, p.key_length});
  set_seed(p);
}

inline void AttentionArguments::find_reach(AttentionProblem& p, const PatternProgram& program) {
  const int64_t furthest = std::max(p.query_length - 1 + p.query_offset, p.key_length - 1 - p.query_offset);
  const int64_t reach = std::min(pattern_reach(program), furthest);
  for (RelativeTable* table : {&p.relative_key, &p.relative_value}) table->clips = reach > table->max_distance;
}

// All block layouts of a pattern as bytes, from whatever device.
inline LayoutReader AttentionArguments::layout_reader(const OptionalTensor& layout) {
  if (layout && layout->scalar_type() != ScalarType::Bool) throw std::invalid_argument("layout must be bool");
  return [layout] {
    if (!layout) return std::vector<uint8_t>{};
    const Tensor on_host = as_type(
        layout->is_cpu() ? *layout : torch::stable::to(*layout, torch::headeronly::DeviceType::CPU), ScalarType::Bool);
    const uint8_t* bytes = static_cast<const uint8_t*>(on_host.data_ptr());
    return std::vector<uint8_t>(bytes, bytes + on_host.numel());
  };
}

// Checks what backward is given of forward's results.
inline void check_attention_results(const AttentionProblem& p, const Tensor& out, const Tensor& lse,
                                    const OptionalTensor& grad_out, const OptionalTensor& grad_lse) {
  const std::vector<int64_t> out_shape{p.batch, p.query_heads, p.query_length, p.value_dim};
  const std::vector<int64_t> lse_shape{p.batch, p.query_heads, p.query_length};
  check_shape(out, "out", out_shape);
  check_shape(lse, "lse", lse_shape);
  if (grad_out) check_shape(*grad_out, "grad_out", out_shape);
  if (grad_lse) check_shape(*grad_lse, "grad_lse", lse_shape);
}

inline void check_attention_wanted(const std::vector<bool>& wanted, const OptionalTensor& mask) {
  check_wanted(wanted, kGradients);
  if (wanted[kMask] && (!mask || dtype_of(*mask, "mask") == DType::kBool)) {
    throw std::invalid_argument("wanted asks for the gradient of a mask that is not floating");
  }
}

}  // namespace seo_kernels
