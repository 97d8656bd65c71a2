// bias_act and gated_act: one read and one write of every tensor; bias gradients in the same launch.
#include "cuda/activation.h"

#include "cuda/activation_jet.h"
#include "cuda/summed_tile.h"

namespace seo_kernels::cuda {
namespace {

template <class Acc>
SK_DEVICE Acc bias_at(const void* bias, int64_t column) {
  return bias ? static_cast<const Acc*>(bias)[column] : Acc(0);
}

struct NoShared {};

template <class S, int N>
struct BiasActForward {
  using Acc = AccOf<S>;
  using Shared = NoShared;
  static constexpr int kThreads = kLanes * kRowGroups;
  BiasActForwardParams p;

  template <class Block>
  SK_DEVICE void operator()(Block& block) const {
    block.for_threads([&](int thread) {
      const TilePlace<S, N> place(p, kTileRows, block.index(), thread);
      if (place.row >= place.row_end) return;
      Acc bias[N];
      for (int n = 0; n < N; ++n) bias[n] = bias_at<Acc>(p.bias, place.column + n);
      const Acc slope = static_cast<Acc>(p.negative_slope);
      with_activation(p.activation, [&](auto which) {
        place.for_rows({p.input}, [&](int64_t row, const Chunk<S, N>* in) {
          Chunk<S, N> out;
#pragma unroll
          for (int n = 0; n < N; ++n) {
            const Acc x = widen(in[0].element[n]) + bias[n];
            out.element[n] = narrow<S>(jet_at<decltype(which)::value>(x, slope).value);
          }
          store_chunk<N>(p.out.template at<S>(row, place.column), out);
        });
      });
    });
  }
};

template <class S, int N>
struct BiasActBackward {
  using Acc = AccOf<S>;
  using Shared = typename SummedTile<S, N>::Shared;
  static constexpr int kThreads = SummedTile<S, N>::kThreads;
  BiasActBackwardParams p;
  int64_t tile_rows;

  template <class Block>
  SK_DEVICE void operator()(Block& block) const {
    const SummedTile<S, N> tile{p.grad_bias, p.rows, p.columns, tile_rows};
    block.for_threads([&](int thread) { differentiate(block, tile, thread); });
    if (p.grad_bias) tile.finish(block);
  }

  // Gradients of the inputs, and their sums over the thread's rows.
  template <class Block>
  SK_DEVICE void differentiate(Block& block, const SummedTile<S, N>& tile, int thread) const {
    const TilePlace<S, N> place(p, tile_rows, block.index(), thread);
    Acc sums[N] = {}, bias[N] = {};
    if (place.row < place.row_end) {
      for (int n = 0; n < N; ++n) bias[n] = bias_at<Acc>(p.bias, place.column + n);
    }
    const Acc slope = static_cast<Acc>(p.negative_slope);
    with_activation(p.activation, [&](auto which) {
      place.for_rows({p.input, p.grad_out}, [&](int64_t row, const Chunk<S, N>* in) {
        Chunk<S, N> out;
#pragma unroll
        for (int n = 0; n < N; ++n) {
          const Acc x = widen(in[0].element[n]) + bias[n];
          const Acc gradient =
              jet_at<decltype(which)::value>(x, slope).first * static_cast<Acc>(widen(in[1].element[n]));
          sums[n] += gradient;
          out.element[n] = narrow<S>(gradient);
        }
        if (p.grad_input.data) store_chunk<N>(p.grad_input.template at<S>(row, place.column), out);
      });
    });
    if (p.grad_bias) tile.put(block, thread, sums);
  }
};

template <class S, int N>
struct GatedActForward {
  using Acc = AccOf<S>;
  using Shared = NoShared;
  static constexpr int kThreads = kLanes * kRowGroups;
  GatedActForwardParams p;

  template <class Block>
  SK_DEVICE void operator()(Block& block) const {
    block.for_threads([&](int thread) {
      const TilePlace<S, N> place(p, kTileRows, block.index(), thread);
      const Acc slope = static_cast<Acc>(p.negative_slope);
      with_activation(p.activation, [&](auto which) {
        place.for_rows({p.gate, p.up}, [&](int64_t row, const Chunk<S, N>* in) {
          Chunk<S, N> out;
#pragma unroll
          for (int n = 0; n < N; ++n) {
            const Acc gate = widen(in[0].element[n]), up = widen(in[1].element[n]);
            out.element[n] = narrow<S>(jet_at<decltype(which)::value>(gate, slope).value * up);
          }
          store_chunk<N>(p.out.template at<S>(row, place.column), out);
        });
      });
    });
  }
};

template <class S, int N>
struct GatedActBackward {
  using Acc = AccOf<S>;
  using Shared = NoShared;
  static constexpr int kThreads = kLanes * kRowGroups;
  GatedActBackwardParams p;

  template <class Block>
  SK_DEVICE void operator()(Block& block) const {
    block.for_threads([&](int thread) {
      const TilePlace<S, N> place(p, kTileRows, block.index(), thread);
      const Acc slope = static_cast<Acc>(p.negative_slope);
      with_activation(p.activation, [&](auto which) {
        place.for_rows({p.gate, p.up, p.grad_out}, [&](int64_t row, const Chunk<S, N>* in) {
          Chunk<S, N> grad_gate, grad_up;
#pragma unroll
          for (int n = 0; n < N; ++n) {
            const Jet<Acc> both = jet_at<decltype(which)::value>(static_cast<Acc>(widen(in[0].element[n])), slope);
            const Acc up = widen(in[1].element[n]), grad_out = widen(in[2].element[n]);
            grad_gate.element[n] = narrow<S>(both.first * (grad_out * up));
            grad_up.element[n] = narrow<S>(both.value * grad_out);
          }
          if (p.grad_gate.data) store_chunk<N>(p.grad_gate.template at<S>(row, place.column), grad_gate);
          if (p.grad_up.data) store_chunk<N>(p.grad_up.template at<S>(row, place.column), grad_up);
        });
      });
    });
  }
};

}  // namespace

void bias_act_forward(const BiasActForwardParams& p, Stream stream) {
  with_chunks(p, {p.input, p.out}, [&](auto stored, auto n) {
    launch(BiasActForward<decltype(stored), decltype(n)::value>{p}, tiles_of<decltype(n)::value>(p, kTileRows), stream,
           "bias_act_forward");
  });
}

void bias_act_backward(const BiasActBackwardParams& p, Stream stream) {
  const int64_t tile_rows = summed_tile_rows(p.rows);
  with_chunks(p, {p.input, p.grad_out, p.grad_input}, [&](auto stored, auto n) {
    launch(BiasActBackward<decltype(stored), decltype(n)::value>{p, tile_rows},
           tiles_of<decltype(n)::value>(p, tile_rows), stream, "bias_act_backward");
  });
}

void gated_act_forward(const GatedActForwardParams& p, Stream stream) {
  with_chunks(p, {p.gate, p.up, p.out}, [&](auto stored, auto n) {
    launch(GatedActForward<decltype(stored), decltype(n)::value>{p}, tiles_of<decltype(n)::value>(p, kTileRows), stream,
           "gated_act_forward");
  });
}

void gated_act_backward(const GatedActBackwardParams& p, Stream stream) {
  with_chunks(p, {p.gate, p.up, p.grad_out, p.grad_gate, p.grad_up}, [&](auto stored, auto n) {
    launch(GatedActBackward<decltype(stored), decltype(n)::value>{p}, tiles_of<decltype(n)::value>(p, kTileRows),
           stream, "gated_act_backward");
  });
}

}  // namespace seo_kernels::cuda
