// Scores of a pair of tiles, and in backward their weights and gradients, in the threads' registers.
#pragma once

#include "cuda/attention/products.h"
#include "cuda/attention/tile_pair.h"

namespace seo_kernels::cuda {

template <class Acc>
struct AttentionShared {
  SharedArray<Acc, kMemory<Acc>> memory;
  SharedArray<uint64_t, kTile> words;  // what the pattern lets each query see
};

template <class S>
SK_DEVICE inline RowRun<S> queries_of(const TensorView& view, const TilePair& pair, int64_t width) {
  return {HeadRows<S>(view, pair.batch(), pair.head(), width), pair.row_begin(), pair.rows()};
}
template <class S>
SK_DEVICE inline RowRun<S> keys_of(const TensorView& view, const TilePair& pair, int64_t width) {
  return {HeadRows<S>(view, pair.batch(), pair.key_head(), width), pair.key_begin(), pair.keys()};
}

// to(i, j) += left(i) . table(clip(j - i)). RowEnds::member holds left(i) . table's first and last row.
template <class S, class Acc, class Block, class EndsOf>
SK_DEVICE void add_relative_dots(Block& block, const AttentionParams& p, const TilePair& pair,
                                 PerThread<MicroTile<Acc>>& to, const RowRun<S>& left, const HeadTable<Acc>& table,
                                 EndsOf ends_of) {
  const int64_t distance = pair.distance();
  const bool below = distance + kTile - 1 <= -table.reach, above = distance - kTile + 1 >= table.reach;
  if (!below && !above) return add_band_dots(block, to, left, table, distance);
  block.for_threads([&](int thread) {
    const Place place(thread);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (place.row + r >= pair.rows()) break;
      const Acc end = ends_of(static_cast<const RowEnds<Acc>*>(p.row_ends)[pair.row_index(place.row + r)], above);
#pragma unroll
      for (int c = 0; c < kColumns; ++c) to[thread].at[r][c] += end;
    }
  });
}

// q . (k + relative key), unscaled
template <class S, class Acc, class Block>
SK_DEVICE void score_products(Block& block, const AttentionParams& p, const TilePair& pair,
                              PerThread<MicroTile<Acc>>& to) {
  const RowRun<S> queries = queries_of<S>(p.query, pair, p.dim);
  block.for_threads([&](int thread) { to[thread] = MicroTile<Acc>{}; });
  add_dots(block, to, queries, keys_of<S>(p.key, pair, p.dim));
  if (p.relative_key) {
    add_relative_dots<S>(block, p, pair, to, queries, HeadTable<Acc>(p.relative_key, pair.head(), p.dim),
                         [](const RowEnds<Acc>& ends, bool above) { return ends.key[above]; });
  }
}

// dO . (v + relative value)
template <class S, class Acc, class Block>
SK_DEVICE void weight_gradients(Block& block, const AttentionBackwardParams& p, const TilePair& pair,
                                PerThread<MicroTile<Acc>>& to) {
  block.for_threads([&](int thread) { to[thread] = MicroTile<Acc>{}; });
  if (!p.grad_out) return;
  const RowRun<S> grad_out = queries_of<S>(p.grad_out, pair, p.value_dim);
  add_dots(block, to, grad_out, keys_of<S>(p.value, pair, p.value_dim));
  if (p.relative_value) {
    add_relative_dots<S>(block, p, pair, to, grad_out, HeadTable<Acc>(p.relative_value, pair.head(), p.value_dim),
                         [](const RowEnds<Acc>& ends, bool above) { return ends.value[above]; });
  }
}

// From products to scores as they enter the softmax.
template <class Acc>
struct Scorer {
  Acc scale, softcap, slope = 0;
  const Acc* bias = nullptr;
  int64_t bias_reach = 0;
  bool mask;

  SK_DEVICE Scorer(const AttentionParams& p, int64_t head)
      : scale(static_cast<Acc>(p.scale)), softcap(static_cast<Acc>(p.softcap)), mask(p.adds_mask()) {
    if (p.slopes) slope = static_cast<const Acc*>(p.slopes)[head];
    if (p.relative_bias) {
      bias = static_cast<const Acc*>(p.relative_bias.data) + head * p.relative_bias.rows();
      bias_reach = p.relative_bias.max_distance;
    }
  }

  // cap_slope: softcap's derivative
  SK_DEVICE Acc score(const TilePair& pair, Acc product, int row, int column, Acc& cap_slope) const {
    Acc x = product * scale;
    if (softcap != Acc(0)) {
      const Acc t = tanh_of(x / softcap);
      x = softcap * t;
      cap_slope = Acc(1) - t * t;
    }
    const int64_t distance = pair.distance() + column - row;
    if (bias) x += bias[relative_index(distance, bias_reach)];
    if (slope != Acc(0)) x -= slope * static_cast<Acc>(distance < 0 ? -distance : distance);
    if (mask && row < pair.rows() && column < pair.keys()) x += pair.added<Acc>(row, column);
    return x;
  }
};

// The sink's logit joins the maximum and the total, and nothing else; sums are to be multiplied by the factor.
template <class Acc>
SK_DEVICE inline void add_sink(Acc sink, Acc& maximum, Acc& total, Acc& factor) {
  if (sink > maximum) {
    factor = exp2_of(maximum - sink);
    maximum = sink;
    total = total * factor + Acc(1);
  } else if (maximum != kHidden<Acc>) {
    total += exp2_of(sink - maximum);
  }
}

// Calls f(true) where scaling is all that is done to scores: rows are then unrolled.
template <class F>
SK_DEVICE inline void with_simple_scores(const AttentionParams& p, F f) {
  if (p.modifies_scores()) {
    f(std::false_type{});
  } else {
    f(std::true_type{});
  }
}

// lse in the log2 domain, +inf for rows that see nothing or are not there: their weights are 2^-inf = 0.
template <class Acc>
SK_DEVICE inline Acc shift_of(const AttentionBackwardParams& p, const TilePair& pair, int row) {
  if (row >= pair.rows()) return -kHidden<Acc>;
  const Acc lse = static_cast<const Acc*>(p.lse)[pair.row_index(row)];
  return lse == kHidden<Acc> ? -lse : lse * Acc(kLog2E);
}
template <class Acc>
SK_DEVICE inline Acc delta_of(const AttentionBackwardParams& p, const TilePair& pair, int row) {
  return row < pair.rows() ? static_cast<const Acc*>(p.delta)[pair.row_index(row)] : Acc(0);
}

// Backward's tile: from products to gradients of the scores as they enter the softmax (`gradients`, which held those of
// the weights) and to softcap's derivatives (`products`, where there is a softcap). Calls keep(place, r, weights) with
// the weights of each of a thread's rows, dropped out; it may write to shared memory.
template <class Acc, class Block, class Keep>
SK_DEVICE void differentiate(Block& block, const AttentionBackwardParams& p, const TilePair& pair,
                             PerThread<MicroTile<Acc>>& products, PerThread<MicroTile<Acc>>& gradients, Keep keep) {
  const Scorer<Acc> scorer(p, pair.head());
  const Acc inverse_kept = static_cast<Acc>(1.0 / (1.0 - p.dropout_p));
  block.sync();  // what was multiplied is read
  block.for_threads([&](int thread) {
    const Place place(thread);
    const PairBits visible = pair.visible(block.shared().words, place);
    const PairBits kept = p.dropout ? pair.kept(place) : 0;
    with_simple_scores(p, [&](auto simple) {
      for_rows<decltype(simple)::value, Acc>(
          [&](int r, int at) {
            const Acc shift = shift_of<Acc>(p, pair, place.row + r), delta = delta_of<Acc>(p, pair, place.row + r);
            Acc weights[kColumns];
#pragma unroll
            for (int c = 0; c < kColumns; ++c) {
              const int bit = r * kColumns + c;
              Acc &product = products[thread].at[at][c], &gradient = gradients[thread].at[at][c];
              Acc x, weight = 0;
              if constexpr (decltype(simple)::value) {
                x = product * scorer.scale;
              } else {
                x = scorer.score(pair, product, place.row + r, place.column + c, product);
              }
              if (visible >> bit & 1) weight = exp2_of(x * Acc(kLog2E) - shift);
              weights[c] = weight;
              if (p.dropout) {
                const Acc factor = kept >> bit & 1 ? inverse_kept : Acc(0);
                weights[c] *= factor;
                gradient *= factor;
              }
              // A hidden pair's gradient may hold anything, NaN included: its weight of zero must win.
              gradient = weight == Acc(0) ? Acc(0) : weight * (gradient - delta);
            }
            keep(place, r, weights);
          },
          products[thread], gradients[thread]);
    });
  });
}

// From gradients of scores to those of the bare products, short of the scale.
template <class Acc>
SK_DEVICE inline void through_softcap(const AttentionParams& p, MicroTile<Acc>& gradients,
                                      const MicroTile<Acc>& slopes) {
  if (p.softcap == 0.0) return;
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      // A hidden score's slope may hold anything: its gradient of zero must win.
      if (gradients.at[r][c] != Acc(0)) gradients.at[r][c] *= slopes.at[r][c];
    }
  }
}

}  // namespace seo_kernels::cuda
