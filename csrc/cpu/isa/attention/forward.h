// Attention forward for a range of query tiles: online softmax over the visited key panels.
#pragma once

#include <cmath>

#include "cpu/isa/attention/dropout_tile.h"
#include "cpu/isa/attention/packed_rows.h"
#include "cpu/isa/attention/score_tile.h"

namespace seo_kernels::cpu {
namespace {

template <class E>
class ForwardTile {
 public:
  using Acc = typename E::Acc;
  using Operand = typename E::Operand;
  static constexpr int W = kLanes<Acc>;
  static constexpr Acc kHidden = ScoreTile<E>::kHidden;

  // Panels whose values are multiplied in one go: their rows should stay in the first-level cache.
  static constexpr int kRunPanels = 2;

  explicit ForwardTile(const AttentionForwardParams& p)
      : p_(p),
        tile_(p, kMaxBlockPanels, false),
        values_(p.value, p.key_length, p.value_dim),
        dropout_(p, tile_.ld()),
        weight_sums_(p.relative_value, p.value_dim),
        round_at_once_(E::kPack > 1 && !p.dropout && !p.relative_value),
        weights_(E::kPack > 1 ? kMaxTileRows * tile_.ld() : 0),
        out_ld_(round_up(p.value_dim, W)),
        out_(kMaxTileRows * out_ld_) {}

  void run(UnitRange units) {
    const int64_t group = p_.group(), tiles = p_.plan->tiles;
    int64_t head_index = -1;
    for (int64_t unit = units.begin; unit < units.end; ++unit) {
      const int64_t tile = unit % tiles, member = unit / tiles % group, index = unit / (tiles * group);
      if (index != head_index) {
        head_index = index;
        tile_.begin_head(index / p_.key_heads, index % p_.key_heads);
        values_.begin_head(index / p_.key_heads, index % p_.key_heads, tile_.mask_bits().key_count());
      }
      tile_.begin_tile(tile_.key_head() * group + member, tile);
      run_tile();
    }
  }

 private:
  void run_tile() {
    const int64_t rows = tile_.rows();
    std::fill(out_.get(), out_.get() + rows * out_ld_, Acc(0));
    std::fill(maximum_, maximum_ + rows, kHidden);
    std::fill(total_, total_ + rows, Vec<Acc>{});
    if (p_.relative_value) weight_sums_.begin_tile(rows);
    PanelBlock block;
    for (bool first = true; tile_.next_block(block); first = false) {
      tile_.multiply(block);
      if (p_.dropout) dropout_.fill(tile_, block);
      for (int64_t r = 0; r < rows; r += kMaskRows) {
        if (first) prefetch_next(r / kMaskRows);
        softmax_rows(block, r, std::min<int64_t>(r + kMaskRows, rows));
      }
      if (E::kPack > 1 && !round_at_once_) {
        to_operand_rows<E>(tile_.row(0), tile_.ld(), rows, block.count * kPanel, weights_.get(), tile_.ld());
      }
      add_values(block);
    }
    finish();
  }

  void prefetch_next(int64_t part) const {
    tile_.prefetch_queries(p_.query, p_.dim, part);
    tile_.prefetch_keys(p_.key, p_.dim, part);
    tile_.prefetch_keys(p_.value, p_.value_dim, part);
  }

  // Turns a few rows of scores into weights relative to the running maxima. Row by row would wait for each maximum.
  void softmax_rows(const PanelBlock& block, int64_t begin, int64_t end) {
    Acc highest[kMaskRows];
    for (int64_t r = begin; r < end; ++r) highest[r - begin] = reduce_max<Acc>(tile_.finish_row(block, r));
    for (int64_t r = begin; r < end; ++r) {
      if (!(highest[r - begin] <= maximum_[r])) {  // also where the maximum is NaN
        if (maximum_[r] != kHidden) rescale_row(r, exp2_one(maximum_[r] - highest[r - begin]));
        maximum_[r] = highest[r - begin];
      }
    }
    for (int64_t r = begin; r < end; ++r) {
      const Vec<Acc> shift = splat(maximum_[r] == kHidden ? Acc(0) : maximum_[r]), factor = splat(tile_.log2_factor());
      Acc* s = tile_.row(r);
      Operand* rounded = weights_.get() + r * tile_.ld();
      Vec<Acc> sum = total_[r];
      tile_.for_each_span(r, [&](int at, int span_end) {
#pragma GCC unroll 4
        for (; at < span_end; at += W) {
          const Vec<Acc> weight = exp2<Acc, (E::kPack > 1)>(load(s + at) * factor - shift);
          sum += weight;
          if (round_at_once_) {
            store_operands<E>(rounded, at, weight);
          } else {
            store(s + at, weight);
          }
        }
      });
      total_[r] = sum;
      if (p_.dropout) drop(r);
      if (p_.relative_value) add_weight_sums(block, r);
    }
  }

  void drop(int64_t r) {
    Acc* s = tile_.row(r);
    const Acc* factors = dropout_.row(r);
    tile_.for_each_span(r, [&](int at, int end) {
      for (; at < end; at += W) store(s + at, load(s + at) * load(factors + at));
    });
  }

  static Acc exp2_one(Acc x) { return exp2<Acc>(splat(x))[0]; }

  void rescale_row(int64_t r, Acc factor) {
    total_[r] *= factor;
    Acc* out = out_.get() + r * out_ld_;
    for (int64_t n = 0; n < out_ld_; ++n) out[n] *= factor;
    if (p_.relative_value) weight_sums_.rescale_row(r, factor);
  }

  void add_weight_sums(const PanelBlock& block, int64_t r) {
    const Acc* s = tile_.row(r);
    tile_.for_each_vector(block, r, [&](int c, int64_t at) {
      Acc* sums = weight_sums_.window(r, tile_.distance(r, block.panel[c])) + (at - c * kPanel);
      store(sums, load(sums) + load(s + at));
    });
  }

  const Operand* weights() const {
    if constexpr (E::kPack > 1) {
      return weights_.get();
    } else {
      return tile_.row(0);
    }
  }

  // O += P V, over as many neighbouring panels at once as are packed alike.
  void add_values(const PanelBlock& block) {
    for (int c = 0; c < block.count;) {
      int end = c + 1;
      values_.panel(block.panel[c]);
      while (end < block.count && end - c < kRunPanels && block.panel[end] == block.panel[end - 1] + 1) {
        values_.panel(block.panel[end++]);
      }
      add_run(block, c, end);
      c = end;
    }
  }

  void add_run(const PanelBlock& block, int begin, int end) {
    constexpr int64_t panel_operands = kPanel / E::kPack;
    const int64_t rows = tile_.rows(), ld = tile_.ld(), vectors = out_ld_ / W;
    const Operand* values = values_.panel(block.panel[begin]);
    const Operand* weights = this->weights() + begin * panel_operands;
    for (int64_t row = 0; row < rows; row += kMaskRows) {
      for (int c = begin; c < end;) {
        const VectorRange seen = tile_.visible_operands(block, row / kMaskRows, begin, end, c);
        if (seen.begin == seen.end) continue;
        gemm<E, Lay::kRows>(std::min<int64_t>(kMaskRows, rows - row), vectors, seen.end - seen.begin,
                            weights + row * ld + seen.begin, ld, values + seen.begin * values_.ld(), values_.ld(),
                            out_.get() + row * out_ld_, out_ld_, true);
      }
    }
  }

  void finish() {
    const int64_t rows = tile_.rows();
    if (p_.relative_value) {
      weight_sums_.fold(rows);
      weight_sums_.multiply_table(tile_.head(), rows, out_.get(), out_ld_);
    }
    Acc* lse = static_cast<Acc*>(p_.lse) + (tile_.batch() * p_.query_heads + tile_.head()) * p_.query_length +
               tile_.row_begin();
    for (int64_t r = 0; r < rows; ++r) {
      Acc total = reduce_add<Acc>(total_[r]);
      if (p_.sinks) total = add_sink(r, total);
      const Acc inverse = total == Acc(0) ? Acc(0) : Acc(1) / total;
      Acc* out = out_.get() + r * out_ld_;
      for (int64_t n = 0; n < out_ld_; ++n) out[n] *= inverse;
      lse[r] = total == Acc(0) ? kHidden : (maximum_[r] + std::log2(total)) * Acc(kLn2);
    }
    store_rows(p_.out, tile_.batch(), tile_.head(), tile_.row_begin(), rows, p_.value_dim, out_.get(), out_ld_);
  }

  // The sink's logit joins the maximum and the total, and nothing else.
  Acc add_sink(int64_t r, Acc total) {
    const Acc sink = static_cast<const Acc*>(p_.sinks)[tile_.head()] * Acc(kLog2E);
    if (sink > maximum_[r]) {
      const Acc factor = maximum_[r] == kHidden ? Acc(0) : exp2_one(maximum_[r] - sink);
      Acc* out = out_.get() + r * out_ld_;
      for (int64_t n = 0; n < out_ld_; ++n) out[n] *= factor;
      maximum_[r] = sink;
      return total * factor + Acc(1);
    }
    return maximum_[r] == kHidden ? total : total + exp2_one(sink - maximum_[r]);
  }

  const AttentionForwardParams& p_;
  ScoreTile<E> tile_;
  PackedRows<E> values_;
  DropoutTile<E> dropout_;
  RelativeSums<E> weight_sums_;
  bool round_at_once_;
  Scratch<Operand> weights_;
  int64_t out_ld_;
  Scratch<Acc> out_;              // (rows, value_dim), not yet normalised
  Acc maximum_[kMaxTileRows];     // log2 domain
  Vec<Acc> total_[kMaxTileRows];  // lane by lane
};

}  // namespace
}  // namespace seo_kernels::cpu
