// linear's epilogue: bias and activation of a product's sums. What the activation is of is narrowed first, whether it
// is kept or not: backward differentiates at the same number.
#pragma once

#include "cuda/activation_jet.h"
#include "cuda/sm80/linear.h"
#include "cuda/sm80/matmul_store.h"

namespace seo_kernels::cuda {

template <class S>
struct LinearEpilogue {
  struct Shared {};
  const float* bias;
  bool activates;
  Activation activation;
  float negative_slope;
  MatmulOut out, preactivation;

  template <class Block, class Grid, class Memory>
  SK_DEVICE void operator()(Block& block, PerThread<typename Grid::Sums>& sums, const Placement<Grid>& place,
                            Memory& memory, Shared&) const {
    if (bias) add_to_columns(block, sums, place, bias, out.columns);
    narrow_tile<S>(block, sums, place, memory, out.rows, out.columns,
                   [&](int row, int column, const Pack<S, 8>& before) {
                     if (preactivation) preactivation.put(row, column, before);
                     out.put(row, column, activates ? activated(before) : before);
                   });
  }

 private:
  SK_DEVICE Pack<S, 8> activated(const Pack<S, 8>& before) const {
    Pack<S, 8> after;
    with_activation(activation, [&](auto which) {
#pragma unroll
      for (int e = 0; e < 8; ++e) {
        after.at[e] = narrow<S>(jet_at<decltype(which)::value>(widen(before.at[e]), negative_slope).value);
      }
    });
    return after;
  }
};

template <class S>
LinearEpilogue<S> linear_epilogue(const sm80::LinearForwardParams& p) {
  return {p.bias,           p.activates,
          p.activation,     static_cast<float>(p.negative_slope),
          MatmulOut(p.out), MatmulOut(p.preactivation)};
}

}  // namespace seo_kernels::cuda
