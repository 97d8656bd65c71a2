// Cross entropy and focal loss of rows of class scores x with target classes y. With l_c = -log p_c and l = l_y:
//   cross entropy:  (1 - s) w_y l + s / C sum_c w_c l_c          s: label smoothing
//   focal loss:     w_y (1 - e^-l)^gamma l                                Lin et al. 2017, eq. 5
// Every gradient has the form   dx_c = (of_softmax) p_c - (of_weights) w_c - (of_target) [c = y].
#include "cpu/isa/entry.h"
#include "cpu/isa/loss/log_sum_exp.h"
#include "semantics/focal.h"

namespace seo_kernels::cpu {
namespace {

template <class Acc>
struct Coefficients {
  Acc of_softmax, of_target, of_weights;
};

template <class Acc>
class ClassLoss {
 public:
  explicit ClassLoss(const ClassLossParams& p)
      : p_(p), weight_(static_cast<const Acc*>(p.weight)), reader_(p.input), smoothing_(p.label_smoothing) {}

  void forward(const ClassLossForwardParams& p, int64_t row) const {
    LogSumExp<Acc> all;
    each_block([&](int64_t begin, int64_t count) { all.add(reader_.at(row, begin, count), count); });
    const Normaliser<Acc> lse = all.normaliser();
    store_normaliser(lse, p.lse, row);
    static_cast<Acc*>(p.losses)[row] = ignored(row) ? Acc(0) : loss(row, lse);
  }

  void backward(const ClassLossBackwardParams& p, int64_t row, const BlockWriter<Acc>& out) const {
    const Normaliser<Acc> lse = normaliser_at<Acc>(p.lse, row);
    const Acc grad = static_cast<const Acc*>(p.grad_losses)[row];
    const bool skip = ignored(row);
    const Coefficients<Acc> by = skip ? Coefficients<Acc>{} : coefficients(p, row, lse, grad);
    each_block([&](int64_t begin, int64_t count) {
      Acc* to = out.begin(row, begin);
      if (skip) {
        std::fill(to, to + count, Acc(0));
      } else {
        gradient(reader_.at(row, begin, count), begin, count, lse, by, to);
        const int64_t place = p_.target[row] - begin;
        if (place >= 0 && place < count) to[place] -= by.of_target;
      }
      out.end(row, begin, count);
    });
  }

 private:
  bool smooth() const { return smoothing_ > 0 && !p_.focal; }
  bool ignored(int64_t row) const { return p_.target[row] == p_.ignore_index; }
  Acc target_weight(int64_t row) const { return weight_ ? weight_[p_.target[row]] : Acc(1); }

  template <class F>
  void each_block(F f) const {
    for (int64_t begin = 0; begin < p_.classes; begin += kLossBlock) {
      f(begin, std::min(kLossBlock, p_.classes - begin));
    }
  }

  Acc loss(int64_t row, const Normaliser<Acc>& lse) const {
    const Acc l = lse.surprise(reader_.entry(row, p_.target[row])), w = target_weight(row);
    if (p_.focal) return w * focal_term(l, static_cast<Acc>(p_.gamma)).value;
    if (!smooth()) return w * l;
    Acc spread = 0;
    each_block([&](int64_t begin, int64_t count) {
      const Acc* x = reader_.at(row, begin, count);
      spread += weight_ ? sum_vectors(
                              count, [&](Vec<Acc> v, Vec<Acc> c) { return lse.surprise(v) * c; }, x, weight_ + begin)
                        : sum_vectors(count, [&](Vec<Acc> v) { return lse.surprise(v); }, x);
    });
    return (1 - smoothing_) * w * l + smoothing_ / static_cast<Acc>(p_.classes) * spread;
  }

  Coefficients<Acc> coefficients(const ClassLossBackwardParams& p, int64_t row, const Normaliser<Acc>& lse,
                                 Acc grad) const {
    const Acc w = target_weight(row);
    if (p_.focal) {
      const Acc l = lse.surprise(reader_.entry(row, p_.target[row]));
      const Acc slope = grad * w * focal_term(l, static_cast<Acc>(p_.gamma)).slope;
      return {slope, slope, 0};
    }
    if (!smooth()) return {grad * w, grad * w, 0};
    const Acc direct = grad * (1 - smoothing_) * w, each = grad * smoothing_ / static_cast<Acc>(p_.classes);
    const Acc weight_sum = weight_ ? *static_cast<const Acc*>(p.weight_sum) : static_cast<Acc>(p_.classes);
    return {direct + each * weight_sum, direct, each};
  }

  void gradient(const Acc* x, int64_t begin, int64_t count, const Normaliser<Acc>& lse, const Coefficients<Acc>& by,
                Acc* to) const {
    const Vec<Acc> of_softmax = splat(by.of_softmax), of_weights = splat(by.of_weights);
    if (!smooth()) {
      map_vectors(count, to, [&](Vec<Acc> v) { return of_softmax * lse.template probability<>(v); }, x);
    } else if (weight_) {
      map_vectors(
          count, to,
          [&](Vec<Acc> v, Vec<Acc> w) { return of_softmax * lse.template probability<>(v) - of_weights * w; }, x,
          weight_ + begin);
    } else {
      map_vectors(count, to, [&](Vec<Acc> v) { return of_softmax * lse.template probability<>(v) - of_weights; }, x);
    }
  }

  const ClassLossParams& p_;
  const Acc* weight_;
  BlockReader<Acc> reader_;
  Acc smoothing_;
};

}  // namespace

void class_loss_forward(const ClassLossForwardParams& p, int64_t begin, int64_t end) {
  with_acc(p.input.dtype, [&](auto acc) {
    const ClassLoss<decltype(acc)> rows(p);
    for (int64_t row = begin; row < end; ++row) rows.forward(p, row);
  });
}

void class_loss_backward(const ClassLossBackwardParams& p, int64_t begin, int64_t end) {
  with_acc(p.input.dtype, [&](auto acc) {
    using Acc = decltype(acc);
    const ClassLoss<Acc> rows(p);
    const BlockWriter<Acc> out(p.grad_input, p.input.dtype, p.classes);
    for (int64_t row = begin; row < end; ++row) rows.backward(p, row, out);
  });
}

}  // namespace seo_kernels::cpu
