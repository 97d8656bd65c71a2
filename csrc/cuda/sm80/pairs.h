// Which of a thread's pairs see each other, which dropout keeps, and their scores, where the pairs lie as a product's
// parts do: by rows of queries, or turned, by rows of keys.
#pragma once

#include "cuda/attention/scores.h"
#include "cuda/sm80/tiles.h"

namespace seo_kernels::cuda {

// Of 16 rows and 64 columns: bit 4 n + 2 h + c belongs to entry 2 h + c of Product n.
using MmaBits = uint32_t;

// A thread's part of such rows, from tile row or column `row` on.
template <bool Turned>
struct Pairs {
  int row, column;

  SK_DEVICE Pairs(int thread, int first_row) : row(first_row + Lane(thread).row), column(Lane(thread).column) {}
  SK_DEVICE int query(int n, int h, int c) const { return Turned ? column + 8 * n + c : row + 8 * h; }
  SK_DEVICE int key(int n, int h, int c) const { return Turned ? row + 8 * h : column + 8 * n + c; }
};

// Calls f(n, h, c) for each pair of which the bit is set.
template <class F>
SK_DEVICE inline void for_bits(MmaBits bits, F f) {
#pragma unroll 1
  for (int n = 0; n < kMmaColumns; ++n) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      if (bits >> (4 * n + e) & 1) f(n, e / 2, e % 2);
    }
  }
}

template <bool Turned, class Words>
SK_DEVICE inline MmaBits visible_pairs(const TilePair& pair, Words& words, const Pairs<Turned>& at) {
  const int keys = pair.keys(), rows = pair.rows();
  const uint64_t present = ~uint64_t{0} >> (kTile - keys);
  MmaBits bits = 0;
  if constexpr (Turned) {
#pragma unroll
    for (int n = 0; n < kMmaColumns; ++n) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const int row = at.query(n, 0, c);
        if (row >= rows) continue;
        uint64_t word = present;
        if (pair.by_pattern()) word &= words[row];
        bits |= static_cast<MmaBits>(word >> at.row & 1) << (4 * n + c);
        bits |= static_cast<MmaBits>(word >> (at.row + 8) & 1) << (4 * n + 2 + c);
      }
    }
  } else {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int row = at.query(0, h, 0);
      if (row >= rows) continue;
      uint64_t word = present;
      if (pair.by_pattern()) word &= words[row];
      word >>= at.column;
#pragma unroll
      for (int n = 0; n < kMmaColumns; ++n) bits |= static_cast<MmaBits>(word >> 8 * n & 3) << (4 * n + 2 * h);
    }
  }
  if (pair.by_segment()) {
    for_bits(bits, [&](int n, int h, int c) {
      if (!pair.one_segment(at.query(n, h, c), at.key(n, h, c))) bits &= ~(MmaBits{1} << (4 * n + 2 * h + c));
    });
  }
  if (pair.by_mask()) {
    for_bits(bits, [&](int n, int h, int c) {
      if (!pair.mask_shows(at.query(n, h, c), at.key(n, h, c))) bits &= ~(MmaBits{1} << (4 * n + 2 * h + c));
    });
  }
  return bits;
}

// What neighbours draw for each other: Philox decides on four queries of a key at once, and those are four threads'
// (turned: two threads'). Products lie side by side, the first in the lowest bits.
template <int Words>
struct Drawn {
  uint32_t word[Words];

  // Makes room for the product before.
  SK_DEVICE void shift(int bits) {
#pragma unroll
    for (int n = Words - 1; n > 0; --n) word[n] = word[n] << bits | word[n - 1] >> (32 - bits);
    word[0] <<= bits;
  }
};

// Of each thread's pairs from tile row first_row(thread) on, those that dropout keeps.
template <bool Turned, class Block, class FirstRow>
SK_DEVICE inline void kept_pairs(Block& block, const AttentionParams& p, const TilePair& pair, FirstRow first_row,
                                 PerThread<MmaBits>& kept) {
  constexpr int per_product = Turned ? 8 : 16, per_word = 32 / per_product;  // bits, and products
  using Words = Drawn<kMmaColumns / per_word>;
  PerThread<Words> drawn;
  block.for_threads([&](int thread) {
    const uint64_t seed = static_cast<uint64_t>(*p.seed);
    const uint32_t threshold = dropout_threshold(p.dropout_p);
    const Pairs<Turned> at(thread, first_row(thread));
    const int turn = Turned ? at.column / 2 % 2 : at.row % 4;  // among those who share
    const int h = Turned ? turn : turn / 2, c = Turned ? 0 : turn % 2;
    Words mine{};
#pragma unroll 1
    for (int n = kMmaColumns - 1; n >= 0; --n) {
      const PhiloxWords words =
          philox(PhiloxWords{{static_cast<uint32_t>(pair.key_begin() + at.key(n, h, c)),
                              static_cast<uint32_t>((pair.row_begin() + at.query(n, h, c)) / 4),
                              static_cast<uint32_t>(pair.head()), static_cast<uint32_t>(pair.batch())}},
                 static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
      uint32_t four = 0;
#pragma unroll
      for (int r = 0; r < 4; ++r) four |= uint32_t{words.word[r] >= threshold} << r;
      mine.shift(per_product);
      mine.word[0] |= four << (4 * turn);
    }
    drawn[thread] = mine;
  });
  block.template combine<Turned ? 2 : 4, Turned ? 1 : 4>(drawn, [](const Words& a, const Words& b) {
    Words both;
#pragma unroll
    for (int n = 0; n < kMmaColumns / per_word; ++n) both.word[n] = a.word[n] | b.word[n];
    return both;
  });
  block.for_threads([&](int thread) {
    const Pairs<Turned> at(thread, first_row(thread));
    MmaBits bits = 0;
#pragma unroll
    for (int n = 0; n < kMmaColumns; ++n) {
      const uint32_t field = drawn[thread].word[n / per_word] >> (n % per_word * per_product);
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int turn = Turned ? e / 2 : e, query = at.query(n, e / 2, e % 2) % 4;
        bits |= (field >> (4 * turn + query) & 1) << (4 * n + e);
      }
    }
    kept[thread] = bits;
  });
}

// Calls f(n, k) for the products of 16 rows and 64 columns, from product `First` of the named tiles' row m on, of which
// k is to be taken: unrolled, or, where f is large, in a loop that turns them so that the product at hand is the first.
template <bool Unrolled, int First = 0, class F, class... Tiles>
SK_DEVICE inline void for_products(int m, F f, Tiles&... tiles) {
  if constexpr (Unrolled) {
#pragma unroll
    for (int n = 0; n < kMmaColumns; ++n) f(n, First + n);
  } else {
#pragma unroll 1
    for (int n = 0; n < kMmaColumns; ++n) {
      f(n, First);
      const auto turn = [&](auto& tile) {
        Product* products = tile.at[m] + First;
        const Product first = products[0];
#pragma unroll
        for (int k = 0; k + 1 < kMmaColumns; ++k) products[k] = products[k + 1];
        products[kMmaColumns - 1] = first;
      };
      (turn(tiles), ...);
    }
  }
}

// The panels that a tile of queries visits, one after the other. What the plan says of them is read anew for each:
// registers are worth more.
class PanelCursor {
 public:
  SK_DEVICE PanelCursor(const DevicePlan& plan, int64_t head, int64_t tile)
      : plan_(plan), at_(static_cast<int>((plan.per_head ? head * plan.tiles : 0) + tile)) {
    run_ = static_cast<int>(plan.offsets[at_]);
  }

  // The next panel of which the queries may see keys, which are then set; false after the last.
  SK_DEVICE bool next(TilePair& pair) {
    const int last_run = static_cast<int>(plan_.offsets[at_ + 1]);
    ++panel_;
    for (; run_ < last_run; ++run_) {
      const PanelRun run = plan_.runs[run_];
      if (panel_ < run.begin) panel_ = run.begin;
      for (; panel_ < run.end; ++panel_) {
        if (pair.set_keys(panel_, run.partial)) return true;
      }
    }
    return false;
  }
  SK_DEVICE int panel() const { return panel_; }
  SK_DEVICE bool partial() const { return plan_.runs[run_].partial; }

 private:
  const DevicePlan& plan_;
  int at_, run_, panel_ = -1;
};

// The tiles of queries that visit a panel, head after head; likewise. Where it stands is where the pair does.
class TileCursor {
 public:
  // Of the pair's batch.
  SK_DEVICE TileCursor(const DevicePlan& plan, TilePair& pair, int64_t panel, int64_t head, int64_t head_end)
      : plan_(plan), panel_(static_cast<int>(panel)), head_end_(static_cast<int>(head_end)) {
    begin_head(pair, static_cast<int>(head));
  }

  // The next tile of which queries may see keys of the panel; the pair is then set.
  SK_DEVICE bool next(TilePair& pair) {
    for (;;) {
      compute_anew_from(panel_);
      const int head = static_cast<int>(pair.head()), last_run = static_cast<int>(plan_.panel_offsets[place(head) + 1]);
      int tile = static_cast<int>(pair.tile()) + 1;
      for (; run_ < last_run; ++run_) {
        const PanelRun run = plan_.panel_runs[run_];
        if (tile < run.begin) tile = run.begin;
        for (; tile < run.end; ++tile) {
          pair.set_queries(pair.batch(), head, tile);
          if (pair.set_keys(panel_, run.partial)) return true;
        }
      }
      if (head + 1 >= head_end_) return false;
      begin_head(pair, head + 1);
    }
  }

 private:
  SK_DEVICE int place(int head) const { return (plan_.per_head ? head * static_cast<int>(plan_.panels) : 0) + panel_; }
  SK_DEVICE void begin_head(TilePair& pair, int head) {
    run_ = static_cast<int>(plan_.panel_offsets[place(head)]);
    pair.set_queries(pair.batch(), head, -1);
  }

  const DevicePlan& plan_;
  int panel_, head_end_, run_ = 0;
};

}  // namespace seo_kernels::cuda
