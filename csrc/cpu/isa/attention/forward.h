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

  // Rows whose softmax is computed side by side, in registers.
  static constexpr int kSoftmaxRows = kOnTiles<E> ? 8 : kVectorBytes == 64 ? kMaskRows<E> : 4;
  static_assert(kMaskRows<E> % kSoftmaxRows == 0);

  // Weights may be this much (in the log2 domain) above 1 before what was summed is rescaled.
  static constexpr Acc kSlack = 8;

  explicit ForwardTile(const AttentionForwardParams& p)
      : p_(p),
        tile_(p, kMaxBlockPanels, false),
        values_(p.value, p.key_length, p.value_dim),
        dropout_(p, tile_.ld()),
        weight_sums_(p.relative_value, p.value_dim),
        round_at_once_(E::kPack > 1 && !p.dropout && !p.relative_value),
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
      tile_.begin_tile(tile_.key_head() * group + member, tile, tile_.all_panels());
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
    tile_.expect_output(p_.out, p_.value_dim);
    tile_.expect_queries(p_.query, p_.dim);
    tile_.expect_keys(p_.key, p_.dim);
    tile_.expect_keys(p_.value, p_.value_dim);
    PanelBlock block;
    while (tile_.next_block(block)) {
      if (p_.dropout) dropout_.fill(tile_, block);
      for (int64_t begin = 0; begin < rows; begin += ScoreTile<E>::kRowsAtOnce) {
        const TileRange part{begin, std::min(begin + ScoreTile<E>::kRowsAtOnce, rows)};
        tile_.multiply(block, part);
        for (int64_t r = part.begin; r < part.end; r += kMaskRows<E>) {
          softmax_rows(block, r, std::min<int64_t>(r + kMaskRows<E>, part.end));
        }
        tile_.multiply_add_rows(block, part, weights(), tile_.ld(), values_, out_.get(), out_ld_, out_ld_);
      }
    }
    finish();
  }

  // Turns the scores of a row block into weights relative to the running maxima.
  void softmax_rows(const PanelBlock& block, int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) tile_.finish_row(block, r);
    int64_t r = begin;
    for (; r + kSoftmaxRows <= end; r += kSoftmaxRows) weigh_rows<kSoftmaxRows>(r);
    for (; r < end; ++r) weigh_rows<1>(r);
    for (r = begin; r < end; ++r) {
      if (p_.dropout) drop(r);
      if (p_.relative_value) add_weight_sums(block, r);
      if (E::kPack > 1 && !round_at_once_) round_row(r);
    }
  }

  // N rows of one row block side by side, vector by vector: they see the same columns.
  template <int N>
  void weigh_rows(int64_t begin) {
    raise_maxima<N>(begin);
    Vec<Acc> shift[N], sum[N];
#pragma GCC unroll 12
    for (int n = 0; n < N; ++n) {
      shift[n] = splat(maximum_[begin + n] == kHidden ? Acc(0) : maximum_[begin + n]);
      sum[n] = total_[begin + n];
    }
    const Vec<Acc> factor = splat(tile_.log2_factor());
    tile_.for_each_span(begin, [&](int at, int span_end) {
      const auto weigh = [&](int n, const Acc* s) {
        const Vec<Acc> weight = exp2<Acc, (E::kPack > 1)>(load(s) * factor - shift[n]);
        sum[n] += weight;
        return weight;
      };
      if constexpr (E::kPack > 1) {
        if (round_at_once_) {
          for (; at + 2 * W <= span_end; at += 2 * W) {
#pragma GCC unroll 12
            for (int n = 0; n < N; ++n) {
              const Acc* s = tile_.row(begin + n) + at;
              const Vec<Acc> first = weigh(n, s);
              store_operands<E>(weight_row(begin + n), at, first, weigh(n, s + W));
            }
          }
        }
      }
      for (; at < span_end; at += W) {
#pragma GCC unroll 12
        for (int n = 0; n < N; ++n) {
          Acc* s = tile_.row(begin + n) + at;
          const Vec<Acc> weight = weigh(n, s);
          if (E::kPack > 1 && round_at_once_) {
            store_operands<E>(weight_row(begin + n), at, weight);
          } else {
            store(s, weight);
          }
        }
      }
    });
#pragma GCC unroll 12
    for (int n = 0; n < N; ++n) total_[begin + n] = sum[n];
  }

  // Brings the running maxima of N rows up to date, and what was summed so far in line with them.
  template <int N>
  void raise_maxima(int64_t begin) {
    constexpr int lanes_up = (N + W - 1) / W * W;
    Vec<Acc> best[lanes_up];
#pragma GCC unroll 16
    for (int n = 0; n < lanes_up; ++n) best[n] = splat(kHidden);
    tile_.for_each_span(begin, [&](int at, int span_end) {
      for (; at < span_end; at += W) {
#pragma GCC unroll 12
        for (int n = 0; n < N; ++n) best[n] = vmax(best[n], load(tile_.row(begin + n) + at));
      }
    });
    alignas(64) Acc highest[lanes_up];
#pragma GCC unroll 12
    for (int n = 0; n < N; n += W) store(highest + n, reduce_max_rows<Acc>(best + n) * tile_.log2_factor());
    for (int n = 0; n < N; ++n) {
      Acc& maximum = maximum_[begin + n];
      if (highest[n] <= maximum + kSlack) continue;
      if (maximum != kHidden) rescale_row(begin + n, exp2_one(maximum - highest[n]));
      maximum = highest[n];
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
      weight_sums_.add(sums, load(s + at));
    });
  }

  // Where weights are rounded to operands, these lie at the beginning of the row of scores that they were made of.
  const Operand* weights() const { return reinterpret_cast<const Operand*>(tile_.row(0)); }
  Operand* weight_row(int64_t r) const { return reinterpret_cast<Operand*>(tile_.row(r)); }

  void round_row(int64_t r) {
    tile_.for_each_span(r, [&](int at, int end) {
      for (; at < end; at += W) store_operands<E>(weight_row(r), at, load(tile_.row(r) + at));
    });
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
  int64_t out_ld_;
  Scratch<Acc> out_;              // (rows, value_dim), not yet normalised
  Acc maximum_[kMaxTileRows];     // log2 domain, up to kSlack below the true one
  Vec<Acc> total_[kMaxTileRows];  // lane by lane
};

}  // namespace
}  // namespace seo_kernels::cpu
