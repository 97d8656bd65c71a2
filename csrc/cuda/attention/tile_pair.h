// A tile of queries before a panel of keys: where they stand, and which queries see which keys.
#pragma once

#include "cuda/attention/micro_tile.h"
#include "semantics/pattern.h"
#include "semantics/philox.h"
#include "semantics/relative.h"

namespace seo_kernels::cuda {

// Bit r * 4 + c: of a thread's row r and column c.
using PairBits = uint32_t;

// Lengths and numbers of heads fit 32 bits: they are checked.
class TilePair {
 public:
  SK_DEVICE explicit TilePair(const AttentionParams& p) : p_(p) {}

  SK_DEVICE void set_queries(int64_t batch, int64_t head, int64_t tile) {
    batch_ = static_cast<int>(batch);
    head_ = static_cast<int>(head);
    tile_ = static_cast<int>(tile);
    key_count_ = static_cast<int>(p_.key_length);
    if (p_.key_lengths) {  // its values are the caller's: never followed out of bounds
      const int64_t length = p_.key_lengths[batch];
      key_count_ = length < 0 ? 0 : static_cast<int>(least(length, p_.key_length));
    }
  }

  // Calls f() for each panel in [first, last) of which the queries may see keys, which are then set.
  template <class F>
  SK_DEVICE void for_panels(int first, int last, F f) {
    const int64_t index = (p_.plan.per_head ? head_ * p_.plan.tiles : 0) + tile_;
    // What the plan says is read anew for each panel: there are no registers to keep it in.
#pragma unroll 1
    for (int n = static_cast<int>(p_.plan.offsets[index]); n < static_cast<int>(p_.plan.offsets[index + 1]); ++n) {
      const PanelRun& run = p_.plan.runs[n];
#pragma unroll 1
      for (int panel = run.begin > first ? run.begin : first; panel < run.end && panel < last; ++panel) {
        if (set_keys(panel, run.partial)) f();
      }
    }
  }

  // Whether any of the queries can see any key of the panel. partial: the pattern hides some.
  SK_DEVICE bool set_keys(int64_t panel, bool partial) {
    compute_anew_from(batch_);
    compute_anew_from(head_);
    compute_anew_from(tile_);
    key_begin_ = static_cast<int>(panel) * kTile;
    if (key_begin_ >= key_count_) return false;
    by_pattern_ = partial;
    by_segment_ = false;
    if (p_.key_segments) {
      const SegmentRange q = p_.query_ranges[batch_ * p_.plan.tiles + tile_];
      const SegmentRange k = p_.key_ranges[batch_ * p_.plan.panels + panel];
      if (k.high < q.low || k.low > q.high) return false;
      by_segment_ = k.low != q.high || k.high != q.low;
    }
    return true;
  }

  // As if the panel had no keys: everything is hidden.
  SK_DEVICE void set_no_keys() {
    key_begin_ = key_count_;
    by_pattern_ = by_segment_ = false;
  }

  // The words of the pattern's bits, where it hides some of the panel; a barrier follows before they are read.
  template <class Block>
  SK_DEVICE void find_words(Block& block) const {
    if (by_pattern_) block.sync();  // those of the panel before are read
    write_words(block);
  }
  template <class Block>
  SK_DEVICE void write_words(Block& block) const {
    if (!by_pattern_) return;
    block.for_threads([&](int thread) {
      if (thread < rows()) block.shared().words[thread] = word(thread);
    });
  }
  // What the pattern lets a row see.
  SK_DEVICE uint64_t word(int row) const {
    int tile = tile_;
    compute_anew_from(tile);
    const int64_t query = tile * p_.plan.tile_rows + row;
    return pattern_bits(*p_.plan.program, head_, query, key_begin_, p_.query_offset);
  }

  SK_DEVICE bool by_pattern() const { return by_pattern_; }
  SK_DEVICE bool by_segment() const { return by_segment_; }
  SK_DEVICE bool by_mask() const { return p_.mask && p_.mask.dtype == DType::kBool; }
  // Whether some pair of the tile may not see each other.
  SK_DEVICE bool hides() const { return by_pattern_ || by_segment_ || by_mask() || keys() < kTile; }
  // Of a row and a column that are there.
  SK_DEVICE bool one_segment(int row, int column) const {
    return p_.query_segments[batch_ * p_.query_length + row_begin() + row] ==
           p_.key_segments[batch_ * p_.key_length + key_begin_ + column];
  }
  SK_DEVICE bool mask_shows(int row, int column) const {
    return static_cast<const uint8_t*>(p_.mask.data)[mask_offset(row, column)] != 0;
  }

  // Of a thread's part, the pairs that see each other; rows past the last are any.
  template <class Words>
  SK_DEVICE PairBits visible(Words& words, const Place& place) const {
    if (!hides()) return ~PairBits{0};
    const int columns = keys() - place.column;
    const PairBits present = columns >= kColumns ? 0xF : columns <= 0 ? 0 : (1u << columns) - 1;
    int64_t segments[kColumns];
    if (by_segment_) {
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
        segments[c] = present >> c & 1 ? p_.key_segments[batch_ * p_.key_length + key_begin_ + place.column + c] : 0;
      }
    }
    PairBits bits = 0;
#pragma unroll 1
    for (int r = 0; r < kRows; ++r) {
      const int row = place.row + r;
      if (row >= rows()) break;
      PairBits seen = present;
      if (by_pattern_) seen &= static_cast<PairBits>(static_cast<uint64_t>(words[row]) >> place.column);
      if (by_segment_) {
        const int64_t segment = p_.query_segments[batch_ * p_.query_length + row_begin() + row];
#pragma unroll
        for (int c = 0; c < kColumns; ++c) seen &= ~(PairBits{segments[c] != segment} << c);
      }
      if (by_mask()) {
        const uint8_t* mask = static_cast<const uint8_t*>(p_.mask.data) + mask_offset(row, place.column);
#pragma unroll
        for (int c = 0; c < kColumns; ++c) {
          if (seen >> c & 1) seen &= ~(PairBits{mask[c * p_.mask.stride[3]] == 0} << c);
        }
      }
      bits |= seen << r * kColumns;
    }
    return bits;
  }

  // Of a thread's part, the pairs whose weights dropout keeps.
  SK_DEVICE PairBits kept(const Place& place) const {
    const uint64_t seed = static_cast<uint64_t>(*p_.seed);
    const uint32_t threshold = dropout_threshold(p_.dropout_p);
    PairBits bits = 0;
#pragma unroll 1
    for (int n = 0; n < kRows / 4 * kColumns; ++n) {
      const int rows = n / kColumns * 4, c = n % kColumns;
      const PhiloxWords words = philox(PhiloxWords{{static_cast<uint32_t>(key_begin_ + place.column + c),
                                                    static_cast<uint32_t>((row_begin() + place.row + rows) / 4),
                                                    static_cast<uint32_t>(head_), static_cast<uint32_t>(batch_)}},
                                       static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
#pragma unroll
      for (int r = 0; r < 4; ++r) bits |= PairBits{words.word[r] >= threshold} << ((rows + r) * kColumns + c);
    }
    return bits;
  }

  // An additive mask's entry; the pair is there.
  template <class Acc>
  SK_DEVICE Acc added(int row, int column) const {
    const int64_t at = mask_offset(row, column);
    switch (p_.mask.dtype) {
      case DType::kFloat64:
        return static_cast<Acc>(static_cast<const double*>(p_.mask.data)[at]);
      case DType::kBFloat16:
        return widen(static_cast<const BFloat16*>(p_.mask.data)[at]);
      case DType::kFloat16:
        return widen(static_cast<const Float16*>(p_.mask.data)[at]);
      default:
        return static_cast<const float*>(p_.mask.data)[at];
    }
  }

  SK_DEVICE int64_t batch() const { return batch_; }
  SK_DEVICE int64_t head() const { return head_; }
  SK_DEVICE int64_t tile() const { return tile_; }
  SK_DEVICE int64_t key_head() const { return head_ / p_.group(); }
  SK_DEVICE int64_t row_begin() const { return tile_ * p_.plan.tile_rows; }
  SK_DEVICE int rows() const { return static_cast<int>(least(p_.plan.tile_rows, p_.query_length - row_begin())); }
  SK_DEVICE int64_t key_begin() const { return key_begin_; }
  SK_DEVICE int keys() const { return static_cast<int>(least(kTile, key_count_ - key_begin_)); }
  // Of the first key's position from the first query's.
  SK_DEVICE int64_t distance() const { return key_begin_ - (row_begin() + p_.query_offset); }
  // Of a row in (B, Hq, Tq).
  SK_DEVICE int64_t row_index(int row) const {
    return (batch_ * p_.query_heads + head_) * p_.query_length + row_begin() + row;
  }

 private:
  SK_DEVICE static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

  SK_DEVICE int64_t mask_offset(int row, int column) const {
    const int64_t* stride = p_.mask.stride;
    return batch_ * stride[0] + head_ * stride[1] + (row_begin() + row) * stride[2] + (key_begin_ + column) * stride[3];
  }

  const AttentionParams& p_;
  // What follows from these is computed where it is needed.
  int batch_ = 0, head_ = 0, tile_ = 0, key_count_ = 0, key_begin_ = 0;
  bool by_pattern_ = false, by_segment_ = false;
};

}  // namespace seo_kernels::cuda
