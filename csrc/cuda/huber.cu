// Huber 1964: z^2 / 2 where |z| <= delta, delta (|z| - delta / 2) beyond, for z = input - target.
#include "cuda/loss.h"
#include "cuda/rows.h"

namespace seo_kernels::cuda {
namespace {

template <class S, int N>
struct HuberOperands {
  using Acc = typename StorageOf<S>::Acc;
  Chunk<typename StorageOf<S>::Element, N> input, target, weight;

  SK_DEVICE Acc difference(int n) const {
    return static_cast<Acc>(widen(input.element[n])) - static_cast<Acc>(widen(target.element[n]));
  }
};

// A block of kHuberBlock columns of a row, as a group of threads goes over it.
template <class S>
struct HuberBlock {
  using Acc = typename StorageOf<S>::Acc;
  int64_t row, begin, count;
  Acc delta;
  Row<S> input, target, weight;

  SK_DEVICE HuberBlock(const HuberParams& p, int64_t item)
      : row(item / p.blocks()),
        begin(item % p.blocks() * kHuberBlock),
        count(p.columns - begin < kHuberBlock ? p.columns - begin : kHuberBlock),
        delta(static_cast<Acc>(p.delta)),
        input(p.input, row),
        target(p.target, row),
        weight(p.weight, row) {}

  // Calls use(column, operands, their number as a constant).
  template <class Use>
  SK_DEVICE void for_entries(const RowGroup& group, Use use) const {
    for_columns<StorageOf<S>::kEntries>(
        group, count, input.head(begin),
        [&](int64_t n, auto entries) {
          constexpr int N = decltype(entries)::value;
          HuberOperands<S, N> in;
          in.input = input.template load<N>(begin + n);
          in.target = target.template load<N>(begin + n);
          if (weight) in.weight = weight.template load<N>(begin + n);
          return in;
        },
        [&](int64_t n, const auto& in, auto entries) { use(begin + n, in, entries); });
  }

  SK_DEVICE Acc value(Acc z) const {
    const Acc a = z < 0 ? -z : z;
    return a <= delta ? Acc(0.5) * a * a : delta * (a - Acc(0.5) * delta);
  }
  SK_DEVICE Acc slope(Acc z) const { return z > delta ? delta : z < -delta ? -delta : z; }
};

template <class S>
struct HuberForward {
  using Acc = typename StorageOf<S>::Acc;
  struct Shared {
    SharedArray<Acc, kRowThreads> totals;
  };
  static constexpr int kThreads = kRowThreads, kEntries = StorageOf<S>::kEntries;
  HuberForwardParams p;
  int width;

  template <class Block>
  SK_DEVICE void operator()(Block& block) const {
    const int64_t items = p.rows * p.blocks();
    PerThread<GroupTotal<Acc>> own;
    block.for_threads([&](int thread) {
      const RowGroup group(width, block.index(), thread);
      if (group.row < items) own[thread].value = losses(group);
    });
    if (!p.sums) return;
    combine_groups(block, own, block.shared(), width);
    block.for_threads([&](int thread) {
      const RowGroup group(width, block.index(), thread);
      if (group.row < items && group.lane == 0) static_cast<Acc*>(p.losses)[group.row] = own[thread].value;
    });
  }

  // Written, or summed.
  SK_DEVICE Acc losses(const RowGroup& group) const {
    const HuberBlock<S> at(p, group.row);
    Acc sum = 0;
    at.for_entries(group, [&](int64_t column, const auto& in, auto entries) {
      constexpr int N = decltype(entries)::value;
      Chunk<Acc, N> losses;
#pragma unroll
      for (int n = 0; n < N; ++n) {
        losses.element[n] = at.value(in.difference(n));
        if (at.weight) losses.element[n] *= static_cast<Acc>(widen(in.weight.element[n]));
        sum += losses.element[n];
      }
      if (!p.sums) store_entries<N>(static_cast<Acc*>(p.losses) + at.row * p.columns + column, losses);
    });
    return sum;
  }
};

template <class S>
struct HuberBackward {
  using Acc = typename StorageOf<S>::Acc;
  struct Shared {};
  static constexpr int kThreads = kRowThreads, kEntries = StorageOf<S>::kEntries;
  HuberBackwardParams p;
  MatrixView grad_input, grad_target, grad_weight;
  int width;

  template <class Block>
  SK_DEVICE void operator()(Block& block) const {
    block.for_threads([&](int thread) {
      const RowGroup group(width, block.index(), thread);
      if (group.row < p.rows * p.blocks()) differentiate(group);
    });
  }

  SK_DEVICE void differentiate(const RowGroup& group) const {
    const HuberBlock<S> at(p, group.row);
    const Row<S> to_input(grad_input, at.row), to_target(grad_target, at.row), to_weight(grad_weight, at.row);
    const Acc* grads = static_cast<const Acc*>(p.grad_losses);
    at.for_entries(group, [&](int64_t column, const auto& in, auto entries) {
      constexpr int N = decltype(entries)::value;
      Chunk<Acc, N> grad;
      if (p.sums) {
#pragma unroll
        for (int n = 0; n < N; ++n) grad.element[n] = grads[group.row];
      } else {
        grad = load_entries<N>(grads + at.row * p.columns + column);
      }
      Acc gradient[N];
      if (to_weight) {
#pragma unroll
        for (int n = 0; n < N; ++n) gradient[n] = at.value(in.difference(n)) * grad.element[n];
        to_weight.template store<N>(column, gradient);
      }
#pragma unroll
      for (int n = 0; n < N; ++n) {
        gradient[n] = at.slope(in.difference(n)) * grad.element[n];
        if (at.weight) gradient[n] *= static_cast<Acc>(widen(in.weight.element[n]));
      }
      if (to_input) to_input.template store<N>(column, gradient);
#pragma unroll
      for (int n = 0; n < N; ++n) gradient[n] = -gradient[n];
      if (to_target) to_target.template store<N>(column, gradient);
    });
  }
};

// The group of a block of columns.
int width_of(const HuberParams& p, int entries) { return group_width(std::min(p.columns, kHuberBlock), entries); }

}  // namespace

void huber_forward(const HuberForwardParams& p, Stream stream) {
  with_storage({p.input, p.target, p.weight}, [&](auto stored) {
    using Kernel = HuberForward<decltype(stored)>;
    const int width = width_of(p, Kernel::kEntries);
    launch(Kernel{p, width}, group_blocks(p.rows * p.blocks(), width), stream, "huber_loss_forward");
  });
}

void huber_backward(const HuberBackwardParams& p, Stream stream) {
  const auto gradient = [&](void* data, const MatrixView& of) {
    return contiguous_rows(data, of.dtype, p.rows, p.columns);
  };
  const MatrixView grad_input = gradient(p.grad_input, p.input), grad_target = gradient(p.grad_target, p.target),
                   grad_weight = gradient(p.grad_weight, p.weight);
  with_storage({p.input, p.target, p.weight}, [&](auto stored) {
    using Kernel = HuberBackward<decltype(stored)>;
    const int width = width_of(p, Kernel::kEntries);
    launch(Kernel{p, grad_input, grad_target, grad_weight, width}, group_blocks(p.rows * p.blocks(), width), stream,
           "huber_loss_backward");
  });
}

}  // namespace seo_kernels::cuda
