// Attention backward on warpgroups: which kernels serve which problem, and their launches.
#include <algorithm>

#include "cuda/sm90/attention.h"
#include "cuda/sm90/attention_gradients.h"

namespace seo_kernels::cuda::sm90 {
namespace {

// Calls f with width and scores as constants.
template <class F>
void with_gradient_kernel(const AttentionProblem& p, F f) {
  with_scores_and_width(p, [&](auto width, auto scores) {
    if constexpr (scores != Scores::kRelative || width <= kWidestWithTables) f(width, scores);
  });
}

CopySource grad_out_source(const AttentionBackwardParams& p) {
  return copy_source(p.grad_out, p.batch, p.query_heads, p.query_length, p.value_dim);
}

// All that is copied.
struct Maps {
  TensorMap query, key, value, grad_out;
  StripeMaps stripes;

  Maps(const AttentionBackwardParams& p, const char* op)
      : query(map_of(query_source(p), kBoxRows, op)),
        key(map_of(key_source(p), kBoxRows, op)),
        value(map_of(value_source(p), kBoxRows, op)),
        grad_out(map_of(grad_out_source(p), kBoxRows, op)),
        stripes{query, query} {
    const auto has_stripes = [](const RelativeTable& table) { return table && table.max_distance > 0; };
    if (has_stripes(p.relative_key)) {
      stripes.key = map_of(stripe_source(p, p.relative_key, p.narrow_key, p.dim), kBoxRows, op);
    }
    if (has_stripes(p.relative_value)) {
      stripes.value = map_of(stripe_source(p, p.relative_value, p.narrow_value, p.value_dim), kBoxRows, op);
    }
  }
};

// own_first, ...: as in the kernel.
template <class Kernel>
void start(const AttentionBackwardParams& p, int64_t count, int64_t heads, const TensorMap& own_first,
           const TensorMap& own_second, const TensorMap& met_first, const TensorMap& met_second,
           const StripeMaps& stripes, Stream stream, const char* op) {
  Kernel kernel{p, static_cast<int>(count), own_first, own_second, met_first, met_second, {}};
  if constexpr (Kernel::kRelative) kernel.stripe_maps = stripes;
  launch(kernel, p.batch * heads * ((count + 1) / 2), stream, op);
}

}  // namespace

std::string backward_refusal(const AttentionBackwardParams& p) {
  if (scores_of(p) == Scores::kRelative && width_of(p) > kWidestWithTables) {
    return "relative keys and values of heads of more than " + std::to_string(kWidestWithTables) +
           " do not fit a block";
  }
  if (p.plan.tile_rows != kTile) {
    return "tiles of queries have " + std::to_string(p.plan.tile_rows) + " rows, it needs " + std::to_string(kTile);
  }
  if (!p.grad_out) return "there are no gradients of outputs";
  const std::string refusal = copy_refusal(grad_out_source(p));
  return refusal.empty() ? source_refusal(p) : "grad_out cannot be copied, " + refusal;
}

int64_t backward_shared_bytes(const AttentionProblem& p) {
  int64_t bytes = 0;
  with_gradient_kernel(p, [&](auto width, auto scores) {
    const auto bytes_of = [&](auto wanted) {
      return static_cast<int64_t>(
          sizeof(typename AttentionGradientsWgmma<BFloat16, width, scores, decltype(wanted)::value>::Shared));
    };
    bytes = std::max(bytes_of(std::integral_constant<Wanted, Wanted::kQuery>{}),
                     bytes_of(std::integral_constant<Wanted, Wanted::kKey>{}));
  });
  return bytes;
}

void attention_key_gradients(const AttentionBackwardParams& p, Stream stream) {
  constexpr const char* op = "attention_backward: keys";
  const Maps maps(p, op);
  with_16_bits(p.dtype, [&](auto stored) {
    using S = decltype(stored);
    with_gradient_kernel(p, [&](auto width, auto scores) {
      const auto start_for = [&](auto wanted) {
        using Kernel = AttentionGradientsWgmma<S, width, scores, decltype(wanted)::value>;
        start<Kernel>(p, p.plan.panels, p.key_heads, maps.key, maps.value, maps.query, maps.grad_out, maps.stripes,
                      stream, op);
      };
      if constexpr (both_at_once(width)) {
        start_for(std::integral_constant<Wanted, Wanted::kKeyAndValue>{});
      } else {
        if (p.grad_value) start_for(std::integral_constant<Wanted, Wanted::kValue>{});
        if (p.grad_key) start_for(std::integral_constant<Wanted, Wanted::kKey>{});
      }
    });
  });
}

void attention_query_gradients(const AttentionBackwardParams& p, Stream stream) {
  constexpr const char* op = "attention_backward: queries";
  const Maps maps(p, op);
  with_16_bits(p.dtype, [&](auto stored) {
    using S = decltype(stored);
    with_gradient_kernel(p, [&](auto width, auto scores) {
      using Kernel = AttentionGradientsWgmma<S, width, scores, Wanted::kQuery>;
      start<Kernel>(p, p.plan.tiles, p.query_heads, maps.query, maps.grad_out, maps.key, maps.value, maps.stripes,
                    stream, op);
    });
  });
}

}  // namespace seo_kernels::cuda::sm90
