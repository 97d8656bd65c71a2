// Cross entropy and focal loss of rows of class scores x with target classes y. With l_c = -log p_c and l = l_y:
//   cross entropy:  (1 - s) w_y l + s / C sum_c w_c l_c          s: label smoothing
//   focal loss:     w_y (1 - e^-l)^gamma l
// Every gradient has the form   dx_c = (of_softmax) p_c - (of_weights) w_c - (of_target) [c = y].
#include "cuda/log_sum_exp.h"
#include "cuda/loss.h"
#include "cuda/rows.h"
#include "semantics/focal.h"

namespace seo_kernels::cuda {
namespace {

// Scores or weights of some classes from `first` on; `fallback` where there are none.
template <int N, class Acc>
SK_DEVICE inline void load_by_class(const void* vector, int64_t first, Acc fallback, Acc (&to)[N]) {
  const Acc* from = static_cast<const Acc*>(vector);
  if (from) {
    const Chunk<Acc, N> chunk = load_entries<N>(from + first);
#pragma unroll
    for (int n = 0; n < N; ++n) to[n] = chunk.element[n];
  } else {
#pragma unroll
    for (int n = 0; n < N; ++n) to[n] = fallback;
  }
}

// What a row's target says, and the score of it.
template <class Acc>
struct Target {
  bool ignored, known;  // known: a class
  int64_t index;
  Acc weight;

  SK_DEVICE Target(const ClassLossParams& p, int64_t row)
      : ignored(p.target[row] == p.ignore_index),
        known(p.target[row] >= 0 && p.target[row] < p.classes),
        index(known ? p.target[row] : 0),
        weight(known && p.weight ? static_cast<const Acc*>(p.weight)[index] : Acc(1)) {}
};

SK_DEVICE inline bool smooths(const ClassLossParams& p) { return p.label_smoothing > 0 && !p.focal; }

template <class S>
struct ClassLossForward {
  using Acc = typename StorageOf<S>::Acc;
  using Shared = SharedScoreSums<Acc, kRowThreads>;
  static constexpr int kThreads = kRowThreads, kEntries = StorageOf<S>::kEntries;
  ClassLossForwardParams p;
  const void* bias;
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
      static_cast<Acc*>(p.losses)[group.row] = loss(group.row, own[thread]);
    });
  }

  SK_DEVICE void sum(const RowGroup& group, ScoreSums<Acc>& all) const {
    const Row<S> row(p.input, group.row);
    for_columns<kEntries>(
        group, p.classes, row.head(),
        [&](int64_t column, auto n) { return row.template load<decltype(n)::value>(column); },
        [&](int64_t column, const auto& in, auto count) {
          constexpr int N = decltype(count)::value;
          Acc x[N];
          load_by_class(bias, column, Acc(0), x);
#pragma unroll
          for (int n = 0; n < N; ++n) x[n] += widen(in.element[n]);
          if (smooths(p)) {
            Acc weights[N];
            load_by_class(p.weight, column, Acc(1), weights);
            all.add(x, weights);
          } else {
            all.add(x);
          }
        });
  }

  SK_DEVICE Acc loss(int64_t row, const ScoreSums<Acc>& all) const {
    const Target<Acc> target(p, row);
    if (target.ignored) return 0;
    if (!target.known) return static_cast<Acc>(NAN);
    const Acc score = Row<S>(p.input, row).entry(target.index);
    const Acc l = all.normaliser().surprise(bias ? score + static_cast<const Acc*>(bias)[target.index] : score);
    if (p.focal) return target.weight * focal_term(l, static_cast<Acc>(p.gamma)).value;
    if (!smooths(p)) return target.weight * l;
    const Acc smoothing = static_cast<Acc>(p.label_smoothing);
    return (1 - smoothing) * target.weight * l + smoothing / static_cast<Acc>(p.classes) * all.weighted_surprise();
  }
};

// S, O: how input and gradient are stored.
template <class S, class O>
struct ClassLossBackward {
  using Acc = typename StorageOf<S>::Acc;
  struct Shared {};
  static constexpr int kThreads = kRowThreads;
  static constexpr int kEntries =
      StorageOf<S>::kEntries < StorageOf<O>::kEntries ? StorageOf<O>::kEntries : StorageOf<S>::kEntries;
  ClassLossBackwardParams p;
  ClassLossPart part;
  int width;

  struct Coefficients {
    Acc of_softmax, of_target, of_weights;
  };

  template <class Block>
  SK_DEVICE void operator()(Block& block) const {
    block.for_threads([&](int thread) {
      const RowGroup group(width, block.index(), thread);
      if (group.row < p.rows) differentiate(group);
    });
  }

  SK_DEVICE void differentiate(const RowGroup& group) const {
    const Row<S> row(p.input, group.row);
    const Row<O> out(part.grad_input, group.row);
    const Target<Acc> target(p, group.row);
    const Normaliser<Acc> lse = normaliser_at<Acc>(p.lse, group.row);
    const bool ignored = target.ignored, smooth = smooths(p);
    const Coefficients by = coefficients(row, target, lse, static_cast<const Acc*>(p.grad_losses)[group.row]);
    const int64_t place = target.index - part.first_class;
    for_columns<kEntries>(
        group, p.input.columns, row.head(),
        [&](int64_t column, auto n) { return row.template load<decltype(n)::value>(column); },
        [&](int64_t column, const auto& in, auto count) {
          constexpr int N = decltype(count)::value;
          Acc x[N], gradient[N];
          load_by_class(part.bias, part.first_class + column, Acc(0), x);
#pragma unroll
          for (int n = 0; n < N; ++n) {
            gradient[n] =
                ignored ? Acc(0) : by.of_softmax * lse.probability(x[n] + static_cast<Acc>(widen(in.element[n])));
          }
          if (smooth && !ignored) {
            Acc weights[N];
            load_by_class(p.weight, part.first_class + column, Acc(1), weights);
#pragma unroll
            for (int n = 0; n < N; ++n) gradient[n] -= by.of_weights * weights[n];
          }
          const int64_t after = place - column;
          if (after >= 0 && after < N) {
#pragma unroll
            for (int n = 0; n < N; ++n) gradient[n] -= n == static_cast<int>(after) ? by.of_target : Acc(0);
          }
          out.template store<N>(column, gradient);
        });
  }

  SK_DEVICE Coefficients coefficients(const Row<S>& row, const Target<Acc>& target, const Normaliser<Acc>& lse,
                                      Acc grad) const {
    if (target.ignored) return {0, 0, 0};
    if (!target.known) return {static_cast<Acc>(NAN), 0, 0};
    const Acc direct = grad * target.weight;
    if (p.focal) {
      const Acc slope = direct * focal_term(lse.surprise(row.entry(target.index)), static_cast<Acc>(p.gamma)).slope;
      return {slope, slope, 0};
    }
    if (!smooths(p)) return {direct, direct, 0};
    const Acc smoothing = static_cast<Acc>(p.label_smoothing), each = grad * smoothing / static_cast<Acc>(p.classes);
    const Acc weight_sum = p.weight ? *static_cast<const Acc*>(p.weight_sum) : static_cast<Acc>(p.classes);
    return {direct * (1 - smoothing) + each * weight_sum, direct * (1 - smoothing), each};
  }
};

template <class S, class O>
void launch_backward(const ClassLossBackwardParams& p, const ClassLossPart& part, Stream stream) {
  using Kernel = ClassLossBackward<S, O>;
  const int width = group_width(p.input.columns, Kernel::kEntries);
  launch(Kernel{p, part, width}, group_blocks(p.rows, width), stream, "class_loss_backward");
}

}  // namespace

void class_loss_forward(const ClassLossForwardParams& p, const void* bias, Stream stream) {
  with_storage({p.input}, [&](auto stored) {
    using Kernel = ClassLossForward<decltype(stored)>;
    const int width = group_width(p.classes, Kernel::kEntries);
    launch(Kernel{p, bias, width}, group_blocks(p.rows, width), stream, "class_loss_forward");
  });
}

void class_loss_backward(const ClassLossBackwardParams& p, const ClassLossPart& part, Stream stream) {
  with_storage({p.input}, [&](auto stored) {
    using S = decltype(stored);
    // gradients of float32 logits are rounded for the products that they go into
    if constexpr (std::is_same_v<S, float>) {
      if (part.grad_input.dtype == DType::kBFloat16) return launch_backward<S, BFloat16>(p, part, stream);
      if (part.grad_input.dtype == DType::kFloat16) return launch_backward<S, Float16>(p, part, stream);
    }
    launch_backward<S, S>(p, part, stream);
  });
}

}  // namespace seo_kernels::cuda
