// Huber 1964: z^2 / 2 where |z| <= delta, delta (|z| - delta / 2) beyond, for z = input - target.
#include "cpu/isa/entry.h"
#include "cpu/isa/loss/row_blocks.h"
#include "cpu/isa/vector_math.h"

namespace seo_kernels::cpu {
namespace {

template <class Acc>
class Huber {
 public:
  explicit Huber(const HuberParams& p)
      : p_(p),
        input_(p.input, kHuberBlock),
        target_(p.target, kHuberBlock),
        weight_(p.weight, kHuberBlock),
        delta_(splat(static_cast<Acc>(p.delta))) {}

  void forward(const HuberForwardParams& p, int64_t block) const {
    const Place at(p_, block);
    const Acc *x = input(at), *t = target(at), *w = weight(at);
    Acc* losses = static_cast<Acc*>(p.losses);
    const auto plain = [&](Vec<Acc> a, Vec<Acc> b) { return value(a - b); };
    const auto weighted = [&](Vec<Acc> a, Vec<Acc> b, Vec<Acc> c) { return value(a - b) * c; };
    if (p_.sums) {
      losses[block] = w ? sum_vectors(at.count, weighted, x, t, w) : sum_vectors(at.count, plain, x, t);
    } else {
      Acc* to = losses + at.row * p_.columns + at.begin;
      w ? map_vectors(at.count, to, weighted, x, t, w) : map_vectors(at.count, to, plain, x, t);
    }
  }

  void backward(const HuberBackwardParams& p, int64_t block, const BlockWriter<Acc>& grad_input,
                const BlockWriter<Acc>& grad_target, const BlockWriter<Acc>& grad_weight, Acc* grads) const {
    const Place at(p_, block);
    const Acc *x = input(at), *t = target(at), *w = weight(at);
    const Acc* grad = static_cast<const Acc*>(p.grad_losses) + at.row * p_.columns + at.begin;
    if (p_.sums) {
      std::fill(grads, grads + at.count, static_cast<const Acc*>(p.grad_losses)[block]);
      grad = grads;
    }
    for (const auto& [writer, sign] : {std::pair{&grad_input, Acc(1)}, {&grad_target, Acc(-1)}}) {
      if (!*writer) continue;
      const Vec<Acc> signs = splat(sign);
      Acc* to = writer->begin(at.row, at.begin);
      if (w) {
        map_vectors(
            at.count, to, [&](Vec<Acc> a, Vec<Acc> b, Vec<Acc> g, Vec<Acc> c) { return slope(a - b) * g * c * signs; },
            x, t, grad, w);
      } else {
        map_vectors(
            at.count, to, [&](Vec<Acc> a, Vec<Acc> b, Vec<Acc> g) { return slope(a - b) * g * signs; }, x, t, grad);
      }
      writer->end(at.row, at.begin, at.count);
    }
    if (grad_weight) {
      map_vectors(
          at.count, grad_weight.begin(at.row, at.begin),
          [&](Vec<Acc> a, Vec<Acc> b, Vec<Acc> g) { return value(a - b) * g; }, x, t, grad);
      grad_weight.end(at.row, at.begin, at.count);
    }
  }

 private:
  struct Place {
    int64_t row, begin, count;
    Place(const HuberParams& p, int64_t block)
        : row(block / p.blocks()),
          begin(block % p.blocks() * kHuberBlock),
          count(std::min(kHuberBlock, p.columns - begin)) {}
  };

  const Acc* input(const Place& at) const { return input_.at(at.row, at.begin, at.count); }
  const Acc* target(const Place& at) const { return target_.at(at.row, at.begin, at.count); }
  const Acc* weight(const Place& at) const { return p_.weight.data ? weight_.at(at.row, at.begin, at.count) : nullptr; }

  Vec<Acc> value(Vec<Acc> z) const {
    const Vec<Acc> a = vabs<Acc>(z);
    return a <= delta_ ? Acc(0.5) * a * a : delta_ * (a - Acc(0.5) * delta_);
  }
  Vec<Acc> slope(Vec<Acc> z) const { return z > delta_ ? delta_ : z < -delta_ ? -delta_ : z; }

  const HuberParams& p_;
  BlockReader<Acc> input_, target_, weight_;
  Vec<Acc> delta_;
};

}  // namespace

void huber_forward(const HuberForwardParams& p, int64_t begin, int64_t end) {
  with_acc(p.acc, [&](auto acc) {
    const Huber<decltype(acc)> blocks(p);
    for (int64_t block = begin; block < end; ++block) blocks.forward(p, block);
  });
}

void huber_backward(const HuberBackwardParams& p, int64_t begin, int64_t end) {
  with_acc(p.acc, [&](auto acc) {
    using Acc = decltype(acc);
    const Huber<Acc> blocks(p);
    const BlockWriter<Acc> grad_input(p.grad_input, p.input.dtype, p.columns, kHuberBlock);
    const BlockWriter<Acc> grad_target(p.grad_target, p.target.dtype, p.columns, kHuberBlock);
    const BlockWriter<Acc> grad_weight(p.grad_weight, p.weight.dtype, p.columns, kHuberBlock);
    const Scratch<Acc> grads(p.sums ? kHuberBlock : 0);
    for (int64_t block = begin; block < end; ++block) {
      blocks.backward(p, block, grad_input, grad_target, grad_weight, grads.get());
    }
  });
}

}  // namespace seo_kernels::cpu
