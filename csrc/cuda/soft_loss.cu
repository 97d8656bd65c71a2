// Cross entropy of rows of class scores x against rows of class probabilities t, as torch defines it:
//   u_c = (1 - s) t_c + s / C,   loss = sum_c w_c u_c l_c             s: label smoothing
//   dx_c = (sum_k w_k u_k) p_c - w_c u_c,   dt_c = (1 - s) w_c l_c,  where l_c = -log p_c
#include "cuda/log_sum_exp.h"
#include "cuda/loss.h"
#include "cuda/rows.h"

namespace seo_kernels::cuda {
namespace {

template <class S, int N>
struct ScoresAndTargets {
  Chunk<typename StorageOf<S>::Element, N> input, target;
};

// w_c, and w_c u_c
template <class Acc>
struct Mixing {
  const Acc* weight;
  Acc kept, each;  // u = kept t + each

  SK_DEVICE explicit Mixing(const SoftLossParams& p)
      : weight(static_cast<const Acc*>(p.weight)),
        kept(static_cast<Acc>(1 - p.label_smoothing)),
        each(static_cast<Acc>(p.label_smoothing / static_cast<double>(p.classes))) {}

  template <int N>
  SK_DEVICE void weights(int64_t column, Acc (&to)[N]) const {
    if (weight) {
      const Chunk<Acc, N> chunk = load_entries<N>(weight + column);
#pragma unroll
      for (int n = 0; n < N; ++n) to[n] = chunk.element[n];
    } else {
#pragma unroll
      for (int n = 0; n < N; ++n) to[n] = 1;
    }
  }

  template <class E, int N>
  SK_DEVICE void mixed(int64_t column, const Chunk<E, N>& target, Acc (&to)[N]) const {
    weights(column, to);
#pragma unroll
    for (int n = 0; n < N; ++n) to[n] *= static_cast<Acc>(widen(target.element[n])) * kept + each;
  }
};

template <class S>
struct SoftLossForward {
  using Acc = typename StorageOf<S>::Acc;
  using Shared = SharedScoreSums<Acc, kRowThreads>;
  static constexpr int kThreads = kRowThreads, kEntries = StorageOf<S>::kEntries;
  SoftLossForwardParams p;
  int width;

  template <class Block>
  SK_DEVICE void operator()(Block& block) const {
    PerThread<ScoreSums<Acc>> own;
    block.for_threads([&](int thread) {
      const RowGroup group(width, block.index(), thread);
      if (group.row < p.rows) sum(group, own[thread]);
    });
    combine_groups(block, own, block.shared(), width);
    block.for_threads([&](int thread) {
      const RowGroup group(width, block.index(), thread);
      if (group.row >= p.rows || group.lane > 0) return;
      store_normaliser(own[thread].normaliser(), p.lse, group.row);
      static_cast<Acc*>(p.losses)[group.row] = own[thread].weighted_surprise();
    });
  }

  SK_DEVICE void sum(const RowGroup& group, ScoreSums<Acc>& all) const {
    const Row<S> input(p.input, group.row), target(p.target, group.row);
    const Mixing<Acc> mixing(p);
    for_columns<kEntries>(
        group, p.classes, input.head(),
        [&](int64_t column, auto n) {
          constexpr int N = decltype(n)::value;
          return ScoresAndTargets<S, N>{input.template load<N>(column), target.template load<N>(column)};
        },
        [&](int64_t column, const auto& in, auto count) {
          constexpr int N = decltype(count)::value;
          Acc x[N], factors[N];
#pragma unroll
          for (int n = 0; n < N; ++n) x[n] = widen(in.input.element[n]);
          mixing.mixed(column, in.target, factors);
          all.add(x, factors);
        });
  }
};

template <class S>
struct SoftLossBackward {
  using Acc = typename StorageOf<S>::Acc;
  struct Shared {
    SharedArray<Acc, kRowThreads> totals, of_row;
  };
  static constexpr int kThreads = kRowThreads, kEntries = StorageOf<S>::kEntries;
  SoftLossBackwardParams p;
  MatrixView grad_input, grad_target;
  int width;

  template <class Block>
  SK_DEVICE void operator()(Block& block) const {
    if (grad_input.data) {
      PerThread<GroupTotal<Acc>> own;
      block.for_threads([&](int thread) {
        const RowGroup group(width, block.index(), thread);
        if (group.row < p.rows) sum(group, own[thread]);
      });
      combine_groups(block, own, block.shared(), width);
      block.for_threads([&](int thread) {
        if (thread % width == 0) block.shared().of_row[thread] = own[thread].value;
      });
      block.sync();
    }
    block.for_threads([&](int thread) {
      const RowGroup group(width, block.index(), thread);
      if (group.row >= p.rows) return;
      const Acc total = grad_input.data ? static_cast<Acc>(block.shared().of_row[thread - group.lane]) : Acc(0);
      differentiate(group, total);
    });
  }

  // Of w u.
  SK_DEVICE void sum(const RowGroup& group, GroupTotal<Acc>& total) const {
    const Row<S> target(p.target, group.row);
    const Mixing<Acc> mixing(p);
    for_columns<kEntries>(
        group, p.classes, target.head(),
        [&](int64_t column, auto n) { return target.template load<decltype(n)::value>(column); },
        [&](int64_t column, const auto& in, auto count) {
          constexpr int N = decltype(count)::value;
          Acc factors[N];
          mixing.mixed(column, in, factors);
#pragma unroll
          for (int n = 0; n < N; ++n) total.value += factors[n];
        });
  }

  SK_DEVICE void differentiate(const RowGroup& group, Acc total) const {
    const Row<S> input(p.input, group.row), target(p.target, group.row);
    const Row<S> to_input(grad_input, group.row), to_target(grad_target, group.row);
    const Mixing<Acc> mixing(p);
    const Normaliser<Acc> lse = normaliser_at<Acc>(p.lse, group.row);
    const Acc grad = static_cast<const Acc*>(p.grad_losses)[group.row], of_softmax = grad * total;
    for_columns<kEntries>(
        group, p.classes, input.head(),
        [&](int64_t column, auto n) {
          constexpr int N = decltype(n)::value;
          return ScoresAndTargets<S, N>{input.template load<N>(column), target.template load<N>(column)};
        },
        [&](int64_t column, const auto& in, auto count) {
          constexpr int N = decltype(count)::value;
          Acc gradient[N];
          if (to_input) {
            mixing.mixed(column, in.target, gradient);
#pragma unroll
            for (int n = 0; n < N; ++n) {
              gradient[n] = of_softmax * lse.probability(widen(in.input.element[n])) - grad * gradient[n];
            }
            to_input.template store<N>(column, gradient);
          }
          if (to_target) {
            mixing.weights(column, gradient);
#pragma unroll
            for (int n = 0; n < N; ++n) gradient[n] *= grad * mixing.kept * lse.surprise(widen(in.input.element[n]));
            to_target.template store<N>(column, gradient);
          }
        });
  }
};

}  // namespace

void soft_loss_forward(const SoftLossForwardParams& p, Stream stream) {
  with_storage({p.input, p.target}, [&](auto stored) {
    using Kernel = SoftLossForward<decltype(stored)>;
    const int width = group_width(p.classes, Kernel::kEntries);
    launch(Kernel{p, width}, group_blocks(p.rows, width), stream, "soft_cross_entropy_forward");
  });
}

void soft_loss_backward(const SoftLossBackwardParams& p, Stream stream) {
  const MatrixView grad_input = contiguous_rows(p.grad_input, p.input.dtype, p.rows, p.classes);
  const MatrixView grad_target = contiguous_rows(p.grad_target, p.target.dtype, p.rows, p.classes);
  with_storage({p.input, p.target}, [&](auto stored) {
    using Kernel = SoftLossBackward<decltype(stored)>;
    const int width = group_width(p.classes, Kernel::kEntries);
    launch(Kernel{p, grad_input, grad_target, width}, group_blocks(p.rows, width), stream,
           "soft_cross_entropy_backward");
  });
}

}  // namespace seo_kernels::cuda
