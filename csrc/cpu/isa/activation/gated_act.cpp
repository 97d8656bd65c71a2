// gated_act: one pass for the value, one for both gradients.
#if !defined(__clang__)
#pragma GCC optimize("schedule-insns")
#endif
#include "cpu/isa/activation/row_blocks.h"
#include "cpu/isa/entry.h"

namespace seo_kernels::cpu {
namespace {

template <class V>
void forward_rows(const GatedActForwardParams& p, Range rows) {
  using Acc = typename V::Acc;
  using S = typename V::S;
  const Acc slope = static_cast<Acc>(p.negative_slope);
  const auto block = [&](const auto& in, const auto& out, int64_t) __attribute__((always_inline)) {
    const auto value = [&](Vec<Acc> gate, Vec<Acc> up) __attribute__((always_inline)) {
      return jet<V::kActivation, typename V::A>(gate, slope).value * up;
    };
    put_block<S>(out[0], map_blocks<Acc>(value, load_block<Acc>(in[0]), load_block<Acc>(in[1])), p.stream);
  };
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    for_blocks<Acc, S, 2, 1>({row_of<S>(p.gate, row), row_of<S>(p.up, row)}, {row_of<S>(p.out, row)},
                             columns_of_row(p, p.gate, row), block);
  }
  finish_streams(p);
}

template <class V>
void backward_rows(const GatedActBackwardParams& p, Range rows) {
  using Acc = typename V::Acc;
  using S = typename V::S;
  const Acc slope = static_cast<Acc>(p.negative_slope);
  const auto block = [&](const auto& in, const auto& out, int64_t) __attribute__((always_inline)) {
    const Block<Acc> gate = load_block<Acc>(in[0]), up = load_block<Acc>(in[1]), grad_out = load_block<Acc>(in[2]);
    Block<Acc> grad_gate, grad_up;
#pragma GCC unroll 4
    for (int v = 0; v < kVectors<Acc>; ++v) {
      const auto both = jet<V::kActivation, typename V::A>(gate.vector[v], slope);
      grad_gate.vector[v] = both.first * (grad_out.vector[v] * up.vector[v]);
      grad_up.vector[v] = both.value * grad_out.vector[v];
    }
    if (out[0]) put_block<S>(out[0], grad_gate, p.stream);
    if (out[1]) put_block<S>(out[1], grad_up, p.stream);
  };
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    for_blocks<Acc, S, 3, 2>({row_of<S>(p.gate, row), row_of<S>(p.up, row), row_of<S>(p.grad_out, row)},
                             {row_of<S>(p.grad_gate, row), row_of<S>(p.grad_up, row)}, columns_of_row(p, p.gate, row),
                             block);
  }
  finish_streams(p);
}

}  // namespace

void gated_act_forward(const GatedActForwardParams& p, Range rows) {
  with_variant(p, p.gate.dtype, [&](auto variant) { forward_rows<decltype(variant)>(p, rows); });
}

void gated_act_backward(const GatedActBackwardParams& p, Range rows) {
  with_variant(p, p.gate.dtype, [&](auto variant) { backward_rows<decltype(variant)>(p, rows); });
}

}  // namespace seo_kernels::cpu
