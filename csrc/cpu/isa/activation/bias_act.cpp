// bias_act: one pass for the value, one for both gradients.
#if !defined(__clang__)
#pragma GCC optimize("schedule-insns")
#endif
#include "cpu/isa/activation/block_activation.h"
#include "cpu/isa/entry.h"
#include "cpu/isa/scratch.h"

namespace seo_kernels::cpu {
namespace {

// Rows whose bias gradients are summed in acc before they are added to the sum in double.
constexpr int64_t kSummedRows = 32;

template <class V>
void forward_rows(const BiasActForwardParams& p, Range rows) {
  using Acc = typename V::Acc;
  using S = typename V::S;
  const Acc* bias = static_cast<const Acc*>(p.bias);
  const BlockActivation<V> activation(p.negative_slope);
  const auto block = [&](const auto& in, const auto& out, int64_t column) __attribute__((always_inline)) {
    Block<Acc> x = load_block<Acc>(in[0]);
    if (bias) x = sum_of<Acc>(x, load_block<Acc>(bias + column));
    put_block<S>(out[0], activation.template operator()<Wanted::kValue>(x).value, p.stream);
  };
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    for_blocks<Acc, S, 1, 1>({row_of<S>(p.input, row)}, {row_of<S>(p.out, row)}, columns_of_row(p, p.input, row),
                             block);
  }
  finish_streams(p);
}

template <class Acc>
void add_sums(Acc* sums, int64_t count, double* totals) {
  for (int64_t n = 0; n < count; ++n) totals[n] += sums[n];
  std::fill_n(sums, count, Acc(0));
}

template <class V>
void backward_rows(const BiasActBackwardParams& p, Range rows, int64_t slot) {
  using Acc = typename V::Acc;
  using S = typename V::S;
  const Acc* bias = static_cast<const Acc*>(p.bias);
  const BlockActivation<V> activation(p.negative_slope);
  const int64_t width = p.input.columns + kActivationPadding;
  double* totals = p.grad_bias ? p.grad_bias + slot * width : nullptr;
  const Scratch<Acc> memory(totals ? width : 0);
  Acc* sums = memory.get();
  if (sums) std::fill_n(sums, width, Acc(0));
  const auto block = [&](const auto& in, const auto& out, int64_t column) __attribute__((always_inline)) {
    Block<Acc> x = load_block<Acc>(in[0]);
    if (bias) x = sum_of<Acc>(x, load_block<Acc>(bias + column));
    const Block<Acc> first = activation.template operator()<Wanted::kFirst>(x).first;
    const Block<Acc> gradient = product_of<Acc>(first, load_block<Acc>(in[1]));
    if (out[0]) put_block<S>(out[0], gradient, p.stream);
    if (sums) store_block<Acc>(sums + column, sum_of<Acc>(load_block<Acc>(sums + column), gradient));
  };
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    for_blocks<Acc, S, 2, 1>({row_of<S>(p.input, row), row_of<S>(p.grad_out, row)}, {row_of<S>(p.grad_input, row)},
                             columns_of_row(p, p.input, row), block);
    if (sums && ((row - rows.begin) % kSummedRows == kSummedRows - 1 || row + 1 == rows.end)) {
      add_sums(sums, width, totals);
    }
  }
  finish_streams(p);
}

}  // namespace

void bias_act_forward(const BiasActForwardParams& p, Range rows) {
  with_variant(p, p.input.dtype, [&](auto variant) { forward_rows<decltype(variant)>(p, rows); });
}

void bias_act_backward(const BiasActBackwardParams& p, Range rows, int64_t slot) {
  with_variant(p, p.input.dtype, [&](auto variant) { backward_rows<decltype(variant)>(p, rows, slot); });
}

}  // namespace seo_kernels::cpu
