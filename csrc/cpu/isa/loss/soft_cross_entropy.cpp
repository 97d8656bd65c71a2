// Cross entropy of rows of class scores x against rows of class probabilities t, as torch defines it:
//   u_c = (1 - s) t_c + s / C,   loss = sum_c w_c u_c l_c             s: label smoothing
//   dx_c = (sum_k w_k u_k) p_c - w_c u_c,   dt_c = (1 - s) w_c l_c,  where l_c = -log p_c
#include "cpu/isa/entry.h"
#include "cpu/isa/loss/log_sum_exp.h"

namespace seo_kernels::cpu {
namespace {

template <class Acc>
class SoftLoss {
 public:
  explicit SoftLoss(const SoftLossParams& p)
      : p_(p),
        weight_(static_cast<const Acc*>(p.weight)),
        input_(p.input),
        target_(p.target),
        ones_(kLossBlock),
        kept_(splat(static_cast<Acc>(1 - p.label_smoothing))),
        each_(splat(static_cast<Acc>(p.label_smoothing / static_cast<double>(p.classes)))) {
    std::fill(ones_.get(), ones_.get() + kLossBlock, Acc(1));
  }

  void forward(const SoftLossForwardParams& p, int64_t row) const {
    LogSumExp<Acc> all;
    each_block([&](int64_t begin, int64_t count) { all.add(input_.at(row, begin, count), count); });
    const Normaliser<Acc> lse = all.normaliser();
    Acc loss = 0;
    each_block([&](int64_t begin, int64_t count) {
      loss += sum_vectors(
          count, [&](Vec<Acc> x, Vec<Acc> t, Vec<Acc> w) { return lse.surprise(x) * mixed(t, w); },
          input_.at(row, begin, count), target_.at(row, begin, count), weights(begin));
    });
    store_normaliser(lse, p.lse, row);
    static_cast<Acc*>(p.losses)[row] = loss;
  }

  void backward(const SoftLossBackwardParams& p, int64_t row, const BlockWriter<Acc>& grad_input,
                const BlockWriter<Acc>& grad_target) const {
    const Normaliser<Acc> lse = normaliser_at<Acc>(p.lse, row);
    const Acc grad = static_cast<const Acc*>(p.grad_losses)[row];
    const Vec<Acc> grads = splat(grad);
    if (grad_input) {
      Acc total = 0;
      each_block([&](int64_t begin, int64_t count) {
        total += sum_vectors(
            count, [&](Vec<Acc> t, Vec<Acc> w) { return mixed(t, w); }, target_.at(row, begin, count), weights(begin));
      });
      const Vec<Acc> of_softmax = splat(grad * total);
      each_block([&](int64_t begin, int64_t count) {
        map_vectors(
            count, grad_input.begin(row, begin),
            [&](Vec<Acc> x, Vec<Acc> t, Vec<Acc> w) {
              return of_softmax * lse.template probability<>(x) - grads * mixed(t, w);
            },
            input_.at(row, begin, count), target_.at(row, begin, count), weights(begin));
        grad_input.end(row, begin, count);
      });
    }
    if (grad_target) {
      each_block([&](int64_t begin, int64_t count) {
        map_vectors(
            count, grad_target.begin(row, begin),
            [&](Vec<Acc> x, Vec<Acc> w) { return grads * kept_ * w * lse.surprise(x); }, input_.at(row, begin, count),
            weights(begin));
        grad_target.end(row, begin, count);
      });
    }
  }

 private:
  template <class F>
  void each_block(F f) const {
    for (int64_t begin = 0; begin < p_.classes; begin += kLossBlock) {
      f(begin, std::min(kLossBlock, p_.classes - begin));
    }
  }

  const Acc* weights(int64_t begin) const { return weight_ ? weight_ + begin : ones_.get(); }
  Vec<Acc> mixed(Vec<Acc> target, Vec<Acc> weight) const { return (target * kept_ + each_) * weight; }

  const SoftLossParams& p_;
  const Acc* weight_;
  BlockReader<Acc> input_, target_;
  Scratch<Acc> ones_;
  Vec<Acc> kept_, each_;
};

}  // namespace

void soft_loss_forward(const SoftLossForwardParams& p, int64_t begin, int64_t end) {
  with_acc(p.input.dtype, [&](auto acc) {
    const SoftLoss<decltype(acc)> rows(p);
    for (int64_t row = begin; row < end; ++row) rows.forward(p, row);
  });
}

void soft_loss_backward(const SoftLossBackwardParams& p, int64_t begin, int64_t end) {
  with_acc(p.input.dtype, [&](auto acc) {
    using Acc = decltype(acc);
    const SoftLoss<Acc> rows(p);
    const BlockWriter<Acc> grad_input(p.grad_input, p.input.dtype, p.classes);
    const BlockWriter<Acc> grad_target(p.grad_target, p.target.dtype, p.classes);
    for (int64_t row = begin; row < end; ++row) rows.backward(p, row, grad_input, grad_target);
  });
}

}  // namespace seo_kernels::cpu
