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

// The panels that a tile of queries visits, one after the other.
class PanelCursor {
 public:
  SK_DEVICE PanelCursor(const DevicePlan& plan, int64_t head, int64_t tile) : plan_(plan) {
    const int64_t index = (plan.per_head ? head * plan.tiles : 0) + tile;
    run_ = static_cast<int>(plan.offsets[index]);
    last_run_ = static_cast<int>(plan.offsets[index + 1]);
  }

  // The next panel of which the queries may see keys, which are then set; false after the last.
  SK_DEVICE bool next(TilePair& pair) {
    for (;;) {
      if (++panel_ >= end_) {
        if (run_ == last_run_) return false;
        const PanelRun& run = plan_.runs[run_++];
        panel_ = run.begin;
        end_ = run.end;
        partial_ = run.partial;
      }
      if (pair.set_keys(panel_, partial_)) return true;
    }
  }
  SK_DEVICE int panel() const { return panel_; }
  SK_DEVICE bool partial() const { return partial_; }

 private:
  const DevicePlan& plan_;
  int run_, last_run_, panel_ = 0, end_ = 0;
  bool partial_ = false;
};

// The tiles of queries that visit a panel, head after head.
class TileCursor {
 public:
  SK_DEVICE TileCursor(const DevicePlan& plan, int64_t panel, int64_t head, int64_t head_end)
      : plan_(plan),
        panel_(static_cast<int>(panel)),
        head_(static_cast<int>(head)),
        head_end_(static_cast<int>(head_end)) {
    find_runs();
  }

  // The next tile of the pair's batch of which queries may see keys of the panel; the pair is then set.
  SK_DEVICE bool next(TilePair& pair) {
    for (;;) {
      if (++tile_ >= end_) {
        while (run_ == last_run_) {
          if (++head_ >= head_end_) return false;
          find_runs();
        }
        const PanelRun& run = plan_.panel_runs[run_++];
        tile_ = run.begin;
        end_ = run.end;
        partial_ = run.partial;
      }
      pair.set_queries(pair.batch(), head_, tile_);
      if (pair.set_keys(panel_, partial_)) return true;
    }
  }
  SK_DEVICE int head() const { return head_; }
  SK_DEVICE int tile() const { return tile_; }

 private:
  SK_DEVICE void find_runs() {
    const int64_t index = (plan_.per_head ? head_ * plan_.panels : 0) + panel_;
    run_ = static_cast<int>(plan_.panel_offsets[index]);
    last_run_ = static_cast<int>(plan_.panel_offsets[index + 1]);
    tile_ = end_ = 0;
  }

  const DevicePlan& plan_;
  int panel_, head_, head_end_;
  int run_ = 0, last_run_ = 0, tile_ = 0, end_ = 0;
  bool partial_ = false;
};

}  // namespace seo_kernels::cuda
