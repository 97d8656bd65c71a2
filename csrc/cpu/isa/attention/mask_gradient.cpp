// The gradient of an additive mask: the score gradients themselves, summed over whatever the mask broadcasts over.
#include "cpu/isa/attention/gradient_tile.h"
#include "cpu/isa/entry.h"

namespace seo_kernels::cpu {
namespace {

template <class E>
class MaskGradient {
 public:
  using Acc = typename E::Acc;

  explicit MaskGradient(const AttentionMaskGradientParams& p) : p_(p), tile_(p, kMaxBlockPanels) {}

  // Items are (mask batch, mask head, tile), or (mask batch, mask head) where one mask row serves all queries: no two
  // items write to the same entry.
  void run(int64_t begin, int64_t end) {
    const int64_t tiles = p_.plan->tiles, per_item = p_.mask_sizes[2] == 1 ? tiles : 1;
    const int64_t items = tiles / per_item;
    for (int64_t item = begin; item < end; ++item) {
      const int64_t mask_head = item / items % p_.mask_sizes[1], mask_batch = item / items / p_.mask_sizes[1];
      for (int64_t batch = 0; batch < p_.batch; ++batch) {
        if (p_.mask_sizes[0] != 1 && batch != mask_batch) continue;
        for (int64_t head = 0; head < p_.query_heads; ++head) {
          if (p_.mask_sizes[1] != 1 && head != mask_head) continue;
          if (batch != batch_ || head / p_.group() != key_head_) {
            batch_ = batch;
            key_head_ = head / p_.group();
            tile_.begin_head(batch, key_head_);
          }
          for (int64_t t = 0; t < per_item; ++t) {
            add_tile(head, item % items * per_item + t, mask_batch * p_.mask_sizes[1] + mask_head);
          }
        }
      }
    }
  }

 private:
  void add_tile(int64_t head, int64_t tile, int64_t mask_index) {
    ScoreTile<E>& scores = tile_.scores();
    tile_.begin_tile(head, tile, scores.all_panels());
    PanelBlock block;
    while (tile_.next_block(block)) {
      tile_.compute(block, TileRange{0, scores.rows()});
      for (int64_t r = 0; r < scores.rows(); ++r) {
        const int64_t mask_row = p_.mask_sizes[2] == 1 ? 0 : scores.row_begin() + r;
        Acc* to = static_cast<Acc*>(p_.grad_mask) + (mask_index * p_.mask_sizes[2] + mask_row) * p_.mask_sizes[3];
        for (int c = 0; c < block.count; ++c) {
          const int64_t key = block.panel[c] * kPanel, count = std::min(kPanel, p_.key_length - key);
          const Acc* gradients = tile_.gradients(r) + c * kPanel;
          if (p_.mask_sizes[3] == 1) {
            for (int64_t n = 0; n < count; ++n) to[0] += gradients[n];
          } else {
            for (int64_t n = 0; n < count; ++n) to[key + n] += gradients[n];
          }
        }
      }
    }
  }

  const AttentionMaskGradientParams& p_;
  GradientTile<E> tile_;
  int64_t batch_ = -1, key_head_ = -1;
};

}  // namespace

void attention_mask_gradient(const AttentionMaskGradientParams& p, int64_t begin, int64_t end) {
  with_engine(p.dtype, [&](auto engine) { MaskGradient<decltype(engine)>(p).run(begin, end); });
}

}  // namespace seo_kernels::cpu
