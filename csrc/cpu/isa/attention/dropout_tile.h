// Dropout factors (0 or 1 / (1 - p)) for a tile of attention weights.
#pragma once

#include "cpu/isa/attention/score_tile.h"
#include "cpu/isa/dropout_rows.h"

namespace seo_kernels::cpu {
namespace {

template <class E>
class DropoutTile {
 public:
  using Acc = typename E::Acc;

  DropoutTile(const AttentionParams& p, int64_t ld)
      : seed_(p.dropout ? static_cast<uint64_t>(*p.seed) : 0),
        threshold_(dropout_threshold(p.dropout_p)),
        kept_(static_cast<Acc>(1.0 / (1.0 - p.dropout_p))),
        ld_(ld),
        factors_(p.dropout ? (kMaxTileRows + 3) * ld : 0) {}

  void fill(const ScoreTile<E>& tile, const PanelBlock& block) {
    constexpr int lanes = kLanes<uint32_t>;
    for (int64_t row = 0; row < tile.rows(); row += 4) {
      for (int c = 0; c < block.count; ++c) {
        for (int64_t n = 0; n < kPanel; n += lanes) {
          const uint32_t key = static_cast<uint32_t>(block.panel[c] * kPanel + n);
          Words words[4];
          dropout_words(seed_, static_cast<uint32_t>(tile.batch()), static_cast<uint32_t>(tile.head()),
                        static_cast<uint32_t>((tile.row_begin() + row) / 4), key, words);
          for (int r = 0; r < 4; ++r) {
            Acc* to = factors_.get() + (row + r) * ld_ + c * kPanel + n;
            for (int lane = 0; lane < lanes; ++lane) to[lane] = words[r][lane] >= threshold_ ? kept_ : Acc(0);
          }
        }
      }
    }
  }

  const Acc* row(int64_t r) const { return factors_.get() + r * ld_; }

 private:
  uint64_t seed_;
  uint32_t threshold_;
  Acc kept_;
  int64_t ld_;
  Scratch<Acc> factors_;
};

}  // namespace
}  // namespace seo_kernels::cpu
