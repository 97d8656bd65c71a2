// gated_act: one pass for the value, one for both gradients.
#if !defined(__clang__)
#pragma GCC optimize("schedule-insns")
#endif
#include "cpu/isa/activation/block_activation.h"
#include "cpu/isa/entry.h"

namespace seo_kernels::cpu {
namespace {

template <class V>
void forward_rows(const GatedActForwardParams& p, Range rows) {
  using Acc = typename V::Acc;
  using S = typename V::S;
  const BlockActivation<V> activation(p.negative_slope);
  const auto block = [&](const auto& in, const auto& out, int64_t) __attribute__((always_inline)) {
    const Block<Acc> value = activation.template operator()<Wanted::kValue>(load_block<Acc>(in[0])).value;
    put_block<S>(out[0], product_of<Acc>(value, load_block<Acc>(in[1])), p.stream);
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
  const BlockActivation<V> activation(p.negative_slope);
  const auto block = [&](const auto& in, const auto& out, int64_t) __attribute__((always_inline)) {
    const Block<Acc> grad_out = load_block<Acc>(in[2]);
    const BlockJet<Acc> act = activation.template operator()<Wanted::kBoth>(load_block<Acc>(in[0]));
    const Block<Acc> grad_gate = product_of<Acc>(act.first, product_of<Acc>(grad_out, load_block<Acc>(in[1])));
    const Block<Acc> grad_up = product_of<Acc>(act.value, grad_out);
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
