// Attention forward for a range of query tiles: online softmax over the visited key panels.
#pragma once

#include <cmath>

#include "cpu/isa/dropout_rows.h"
#include "cpu/isa/packed_rows.h"
#include "cpu/isa/score_tile.h"

namespace seo_kernels::cpu {
namespace {

template <class E>
class ForwardTile {
 public:
  using Acc = typename E::Acc;
  using Operand = typename E::Operand;
  static constexpr int W = kLanes<Acc>;
  static constexpr Acc kHidden = ScoreTile<E>::kHidden;

  explicit ForwardTile(const AttentionForwardParams& p)
      : p_(p),
        tile_(p, kMaxBlockPanels, false),
        values_(p.value, p.key_length, p.value_dim),
        dropout_(p, tile_.ld()),
        weight_sums_(p.relative_value, p.value_dim),
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
        values_.begin_head(index / p_.key_heads, index % p_.key_heads);
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
    std::fill(total_, total_ + rows, Acc(0));
    if (p_.relative_value) weight_sums_.begin_tile(rows);
    PanelBlock block;
    while (tile_.next_block(block)) {
      tile_.multiply(block);
      if (p_.dropout) dropout_.fill(tile_, block);
      for (int64_t r = 0; r < rows; ++r) softmax_row(block, r);
      if constexpr (E::kPack > 1) {
        to_operand_rows<E>(tile_.row(0), tile_.ld(), rows, block.count * kPanel, weights_.get(), tile_.ld());
      }
      add_values(block);
    }
    finish();
  }

  // Turns a row of scores into weights relative to the running maximum.
  void softmax_row(const PanelBlock& block, int64_t r) {
    const Acc highest = tile_.finish_row(block, r);
    Acc maximum = maximum_[r];
    if (!(highest <= maximum)) {  // also where the maximum is NaN
      const Acc factor = exp2_one(maximum - highest);
      if (maximum != kHidden) rescale_row(r, factor);
      maximum = maximum_[r] = highest;
    }
    const Vec<Acc> shift = splat(maximum == kHidden ? Acc(0) : maximum);
    Acc* s = tile_.row(r);
    Vec<Acc> sum{};
    tile_.for_each_vector(block, r, [&](int, int64_t at) {
      const Vec<Acc> weight = exp2<Acc, (E::kPack > 1)>(load(s + at) - shift);
      store(s + at, weight);
      sum += weight;
    });
    total_[r] += reduce_add<Acc>(sum);
    if (p_.dropout) {
      const Acc* factors = dropout_.row(r);
      tile_.for_each_vector(block, r, [&](int, int64_t at) { store(s + at, load(s + at) * load(factors + at)); });
    }
    if (p_.relative_value) add_weight_sums(block, r);
  }

  static Acc exp2_one(Acc x) { return exp2<Acc>(splat(x))[0]; }

  void rescale_row(int64_t r, Acc factor) {
    rescale_out(r, factor);
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

  void add_values(const PanelBlock& block) {
    const int64_t ld = tile_.ld(), vectors = out_ld_ / W;
    for (int c = 0; c < block.count; ++c) {
      const Operand* values = values_.panel(block.panel[c]);
      const Operand* weights = this->weights() + c * kPanel / E::kPack;
      if (!block.masked[c]) {
        gemm<E, Lay::kRows>(tile_.rows(), vectors, kPanel / E::kPack, weights, ld, values, values_.ld(), out_.get(),
                            out_ld_, true);
        continue;
      }
      for (int64_t row = 0; row < tile_.rows(); row += kRowBlock) {
        const VectorRange seen = tile_.visible_operands(block, row / kRowBlock, c);
        gemm<E, Lay::kRows>(std::min<int64_t>(kRowBlock, tile_.rows() - row), vectors, seen.end - seen.begin,
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
    Acc* lse = static_cast<Acc*>(p_.lse) +
               (tile_.batch() * p_.query_heads + tile_.head()) * p_.query_length + tile_.row_begin();
    for (int64_t r = 0; r < rows; ++r) {
      if (p_.sinks) add_sink(r);
      const Acc inverse = total_[r] == Acc(0) ? Acc(0) : Acc(1) / total_[r];
      Acc* out = out_.get() + r * out_ld_;
      for (int64_t n = 0; n < out_ld_; ++n) out[n] *= inverse;
      lse[r] = total_[r] == Acc(0) ? kHidden : (maximum_[r] + std::log2(total_[r])) * Acc(kLn2);
    }
    store_rows(p_.out, tile_.batch(), tile_.head(), tile_.row_begin(), rows, p_.value_dim, out_.get(), out_ld_);
  }

  void add_sink(int64_t r) {
    const Acc sink = static_cast<const Acc*>(p_.sinks)[tile_.head()] * Acc(kLog2E);
    if (sink > maximum_[r]) {
      if (maximum_[r] != kHidden) rescale_out(r, exp2_one(maximum_[r] - sink));
      maximum_[r] = sink;
      total_[r] += Acc(1);
    } else if (maximum_[r] != kHidden) {
      total_[r] += exp2_one(sink - maximum_[r]);
    }
  }

  void rescale_out(int64_t r, Acc factor) {
    total_[r] *= factor;
    Acc* out = out_.get() + r * out_ld_;
    for (int64_t n = 0; n < out_ld_; ++n) out[n] *= factor;
  }

  const AttentionForwardParams& p_;
  ScoreTile<E> tile_;
  PackedRows<E> values_;
  DropoutTile<E> dropout_;
  RelativeSums<E> weight_sums_;
  Scratch<Operand> weights_;
  int64_t out_ld_;
  Scratch<Acc> out_;  // (rows, value_dim), not yet normalised
  Acc maximum_[kMaxTileRows], total_[kMaxTileRows];  // log2 domain
};

}  // namespace
}  // namespace seo_kernels::cpu
