// Every part of the classes keeps, for each token, the running maximum of the logits and the sum of exponentials.
#include "cpu/isa/entry.h"
#include "cpu/isa/loss/log_sum_exp.h"
#include "cpu/isa/loss/logit_tile.h"

namespace seo_kernels::cpu {
namespace {

template <class E>
void forward(const LinearCrossEntropyForwardParams& p, int64_t part, Range class_blocks, Range token_blocks) {
  using Acc = typename E::Acc;
  const Scratch<typename E::Operand> packed(LogitTile<E>::panel_size(p));
  const Scratch<Acc> memory(LogitTile<E>::tile_size(p));
  LogitTile<E> logits(p, packed.get(), memory.get());
  Acc* const largest = static_cast<Acc*>(p.largest) + part * p.tokens();
  Acc* const sum = static_cast<Acc*>(p.sum) + part * p.tokens();
  Acc* const total = p.total ? static_cast<Acc*>(p.total) + part * p.tokens() : nullptr;
  for (int64_t block = class_blocks.begin; block < class_blocks.end; ++block) {
    const Range classes = classes_of(p, block);
    logits.use(classes, true);
    for (int64_t tile = token_blocks.begin; tile < token_blocks.end; ++tile) {
      const Range tokens = tokens_of(p, tile);
      const Acc* x = logits.compute(tokens);
      for (int64_t token = tokens.begin; token < tokens.end; ++token, x += logits.ld()) {
        LogSumExp<Acc> all;
        if (block > class_blocks.begin) all = {largest[token], sum[token]};
        all.add(x, classes.size());
        largest[token] = all.largest;
        sum[token] = all.sum;
        if (total) {
          const Acc logits_sum = sum_vectors(classes.size(), [](Vec<Acc> v) { return v; }, x);
          total[token] = logits_sum + (block > class_blocks.begin ? total[token] : Acc(0));
        }
        const int64_t place = p.target[token] - classes.begin;
        if (place >= 0 && place < classes.size()) static_cast<Acc*>(p.target_logit)[token] = x[place];
      }
    }
  }
}

// lse, and (1 - s) (lse - x_y) + s / C sum_c (lse - x_c), lse in its two parts
template <class Acc>
void combine(const LinearCrossEntropyForwardParams& p, Range tokens) {
  const Acc* largest = static_cast<const Acc*>(p.largest);
  const Acc* sum = static_cast<const Acc*>(p.sum);
  const Acc smoothing = static_cast<Acc>(p.label_smoothing);
  for (int64_t token = tokens.begin; token < tokens.end; ++token) {
    LogSumExp<Acc> all;
    for (int64_t part = 0; part < p.parts; ++part) {
      all.add(LogSumExp<Acc>{largest[part * p.tokens() + token], sum[part * p.tokens() + token]});
    }
    const Normaliser<Acc> lse = all.normaliser();
    Acc loss = lse.surprise(static_cast<const Acc*>(p.target_logit)[token]);
    if (p.total) {
      Acc total = 0;
      for (int64_t part = 0; part < p.parts; ++part) {
        total += static_cast<const Acc*>(p.total)[part * p.tokens() + token];
      }
      loss = (1 - smoothing) * loss + smoothing * lse.surprise(total / static_cast<Acc>(p.classes()));
    }
    store_normaliser(lse, p.lse, token);
    static_cast<Acc*>(p.losses)[token] = loss;
  }
}

}  // namespace

void linear_cross_entropy_forward(const LinearCrossEntropyForwardParams& p, int64_t part, Range class_blocks,
                                  Range token_blocks) {
  with_engine(p.dtype, [&](auto engine) { forward<decltype(engine)>(p, part, class_blocks, token_blocks); });
}

void linear_cross_entropy_combine(const LinearCrossEntropyForwardParams& p, Range tokens) {
  with_acc(p.dtype, [&](auto acc) { combine<decltype(acc)>(p, tokens); });
}

}  // namespace seo_kernels::cpu
