// The arguments of the attention ops, checked and turned into kernel parameters.
#pragma once

#include <memory>

#include "cpu/attention_params.h"
#include "params/tile_plan.h"
#include "torch/tensors.h"

namespace seo_kernels {

// Everything that forward and backward have in common. Keeps converted tensors alive while kernels run.
struct AttentionArguments {
  Tensor query, key, value;
  std::string pattern;
  OptionalTensor layout, relative_key, relative_value, relative_bias, slopes, mask, key_lengths, query_segments,
      key_segments, sinks, seed;
  double dropout_p, scale, softcap;
  int64_t query_offset;

  std::shared_ptr<const PlannedPattern> planned{};

  // Checks every argument (std::invalid_argument), converts tables to the accumulation type, makes the plan.
  void prepare(cpu::AttentionParams& params);

  ScalarType acc_type() const {
    return query.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  }
};

}  // namespace seo_kernels
