// Who sees whom within one panel of 64 keys, a word of bits per query row, from every source that can hide a key:
// the pattern, the end of the keys, key_lengths, segments and a bool mask.
#pragma once

#include <limits>

#include "cpu/isa/pack.h"
#include "cpu/isa/scratch.h"

namespace seo_kernels::cpu {
namespace {

// Query rows that share what they skip of a panel: the union of what they see is computed.
template <class E>
constexpr int64_t kMaskRows = kOnTiles<E> ? 2 * kTileRows : 2 * kRowBlock;

enum class PanelMask { kEmpty, kMasked, kFull };

template <int64_t Rows>
class MaskBits {
 public:
  static constexpr int kColumns = 4;  // panels per block

  explicit MaskBits(const AttentionParams& p)
      : p_(p),
        bits_(kMaxTileRows * kColumns),
        any_(kMaxTileRows / Rows * kColumns),
        segment_low_(p.key_segments ? panels() : 0),
        segment_high_(p.key_segments ? panels() : 0) {}

  void begin_batch(int64_t batch) {
    if (p_.key_segments && batch != batch_) {
      const int64_t* segments = p_.key_segments + batch * p_.key_length;
      for (int64_t panel = 0; panel < panels(); ++panel) {
        const int64_t end = std::min((panel + 1) * kPanel, p_.key_length);
        const auto [low, high] = std::minmax_element(segments + panel * kPanel, segments + end);
        segment_low_[panel] = *low;
        segment_high_[panel] = *high;
      }
    }
    batch_ = batch;
    key_count_ = p_.key_lengths ? p_.key_lengths[batch] : p_.key_length;
  }

  void begin_tile(int64_t head, int64_t row_begin, int64_t rows) {
    head_ = head;
    row_begin_ = row_begin;
    rows_ = rows;
    if (p_.query_segments) {
      const int64_t* segments = p_.query_segments + batch_ * p_.query_length + row_begin;
      const auto [low, high] = std::minmax_element(segments, segments + rows);
      query_low_ = *low;
      query_high_ = *high;
    }
  }

  // Works out the bits of a panel into column c; nothing is written for a full panel.
  PanelMask fill(int64_t panel, bool partial, int c) {
    const int64_t key_begin = panel * kPanel;
    if (key_begin >= key_count_) return PanelMask::kEmpty;
    const bool ragged = key_begin + kPanel > key_count_;
    bool by_segment = false;
    if (p_.key_segments) {
      if (segment_high_[panel] < query_low_ || segment_low_[panel] > query_high_) return PanelMask::kEmpty;
      by_segment = segment_low_[panel] != query_high_ || segment_high_[panel] != query_low_;
    }
    const bool by_mask = p_.mask && p_.mask.dtype == DType::kBool;
    if (!partial && !ragged && !by_segment && !by_mask) return PanelMask::kFull;

    const uint64_t present = range_bits(0, key_count_ - key_begin - 1);
    uint64_t all_any = 0;
    for (int64_t block = 0; block * Rows < rows_; ++block) {
      uint64_t any = 0;
      for (int64_t row = block * Rows; row < std::min((block + 1) * Rows, rows_); ++row) {
        uint64_t bits = present;
        if (partial) bits &= pattern_bits(*p_.pattern, head_, row_begin_ + row, key_begin, p_.query_offset);
        if (by_segment && bits) bits &= segment_bits(row, key_begin);
        if (by_mask && bits) bits &= tensor_bits(row, key_begin);
        bits_[row * kColumns + c] = bits;
        any |= bits;
      }
      any_[block * kColumns + c] = any;
      all_any |= any;
    }
    return all_any ? PanelMask::kMasked : PanelMask::kEmpty;
  }

  // Keys of this batch that are there at all.
  int64_t key_count() const { return key_count_; }
  uint64_t row(int64_t r, int c) const { return bits_[r * kColumns + c]; }
  uint64_t any(int64_t row_block, int c) const { return any_[row_block * kColumns + c]; }

  // 64 entries of an additive mask; 0 past the last key.
  template <class Acc>
  void load_additive(int64_t row, int64_t panel, Acc* to) const {
    const int64_t count = std::min(kPanel, p_.key_length - panel * kPanel);
    load_row(p_.mask.data, p_.mask.dtype, mask_offset(row, panel * kPanel), p_.mask.stride[3], count, to);
    std::fill(to + count, to + kPanel, Acc(0));
  }

 private:
  int64_t panels() const { return (p_.key_length + kPanel - 1) / kPanel; }

  int64_t mask_offset(int64_t row, int64_t key) const {
    const int64_t* stride = p_.mask.stride;
    return batch_ * stride[0] + head_ * stride[1] + (row_begin_ + row) * stride[2] + key * stride[3];
  }

  uint64_t segment_bits(int64_t row, int64_t key_begin) const {
    const int64_t segment = p_.query_segments[batch_ * p_.query_length + row_begin_ + row];
    const int64_t* keys = p_.key_segments + batch_ * p_.key_length + key_begin;
    const int64_t count = std::min(kPanel, p_.key_length - key_begin);
    uint64_t bits = 0;
    for (int64_t n = 0; n < count; ++n) bits |= uint64_t{keys[n] == segment} << n;
    return bits;
  }

  uint64_t tensor_bits(int64_t row, int64_t key_begin) const {
    const uint8_t* mask = static_cast<const uint8_t*>(p_.mask.data) + mask_offset(row, key_begin);
    const int64_t stride = p_.mask.stride[3];
    const int64_t count = std::min(kPanel, p_.key_length - key_begin);
#if defined(__AVX512BW__)
    if (stride == 1 && count == kPanel) {
      const __m512i bytes = _mm512_loadu_si512(mask);
      return _mm512_test_epi8_mask(bytes, bytes);
    }
#endif
    uint64_t bits = 0;
    for (int64_t n = 0; n < count; ++n) bits |= uint64_t{mask[n * stride] != 0} << n;
    return bits;
  }

  const AttentionParams& p_;
  Scratch<uint64_t> bits_;                       // (row, column)
  Scratch<uint64_t> any_;                        // (row block, column): the union of its rows
  Scratch<int64_t> segment_low_, segment_high_;  // per key panel of this batch
  int64_t batch_ = -1, head_ = 0, row_begin_ = 0, rows_ = 0, key_count_ = 0;
  int64_t query_low_ = 0, query_high_ = 0;
};

}  // namespace
}  // namespace seo_kernels::cpu
