// The scores of one query tile against a few key panels: product, relative terms, softcap, biases, masks.
//
// Shared by forward, backward and the mask gradient. Hidden scores come out as -inf. Of a masked panel only the columns
// that some row of a row block sees are computed.
#pragma once

#include <limits>

#include "cpu/isa/attention/mask_bits.h"
#include "cpu/isa/attention/packed_panels.h"
#include "cpu/isa/attention/packed_rows.h"
#include "cpu/isa/attention/relative_rows.h"
#include "cpu/isa/prefetch.h"
#include "cpu/isa/scratch.h"
#include "cpu/isa/vector_math.h"

namespace seo_kernels::cpu {
namespace {

constexpr int kMaxBlockPanels = 4;
constexpr int64_t kFewRows = 4;  // a decoding step: keys are read once, so nothing is packed

// A few key panels that are worked on at once, not necessarily neighbours.
struct PanelBlock {
  int count = 0;
  int64_t panel[kMaxBlockPanels];
  bool masked[kMaxBlockPanels];
};

// Rows [begin, end) of a tile.
struct TileRange {
  int64_t begin, end;
};

// Panels [begin, end) of a head.
struct PanelRange {
  int64_t begin, end;
};

// Columns [begin, end) of a block, whole vectors.
struct ColumnSpan {
  int begin, end;
};

template <class E>
class ScoreTile {
 public:
  using Acc = typename E::Acc;
  using Operand = typename E::Operand;
  static constexpr int W = kLanes<Acc>;
  static constexpr int kPanelVectors = static_cast<int>(kPanel) / W;
  static constexpr int kPanelOperands = static_cast<int>(kPanel) / E::kPack;
  static constexpr int64_t kRowBlocks = kMaxTileRows / kMaskRows<E>;
  // Rows whose products are made at once. Tile registers bring panels from further away than what they make of them
  // should lie: the scores of one row block stay in the nearest cache.
  static constexpr int64_t kRowsAtOnce = kOnTiles<E> ? kMaskRows<E> : kMaxTileRows;
  // The largest pieces of products: what all row blocks read of them stays in the nearest cache.
  static constexpr int kMaxVectors = kOnTiles<E> ? kMaxBlockPanels * kPanelVectors : kMaxColumnVectors;
  static constexpr int kMaxInner = kOnTiles<E> ? kMaxBlockPanels * kPanelOperands : 144 / E::kPack;
  // What row blocks see of panels is rounded to as many vectors: as many as operands along a tile.
  static constexpr int kSpanVectors = kOnTiles<E> ? static_cast<int>(kTileOperands) * E::kPack / W : 1;
  static constexpr Acc kHidden = -std::numeric_limits<Acc>::infinity();

  ScoreTile(const AttentionParams& p, int block_panels, bool keep_softcap_slope)
      : p_(p),
        block_panels_(block_panels),
        keys_(p.key, p.key_length, p.dim),
        query_rows_(p.query, p.dim),
        query_ld_(E::kPack > 1 ? keys_.operands_ld() : query_rows_.ld()),
        ld_(block_panels * kPanel + 16),
        scale_(static_cast<Acc>(p.scale)),
        softcap_(static_cast<Acc>(p.softcap)),
        few_rows_(p.query_length <= kFewRows),
        modified_(p.modifies_scores() || p.scale <= 0.0),
        log2_factor_(modified_ ? Acc(kLog2E) : scale_ * Acc(kLog2E)),
        packed_queries_(E::kPack > 1 ? kMaxTileRows * query_ld_ : 0),
        scores_(kMaxTileRows * ld_),
        softcap_slope_(p.softcap != 0.0 && keep_softcap_slope ? kMaxTileRows * ld_ : 0),
        mask_bits_(p),
        relative_key_(p.relative_key, p.dim),
        bias_(p.relative_bias) {}

  // Start on another (batch, key head): forget what was packed.
  void begin_head(int64_t batch, int64_t key_head) {
    batch_ = batch;
    key_head_ = key_head;
    keys_.begin_head(batch, key_head);
    mask_bits_.begin_batch(batch);
  }

  PanelRange all_panels() const { return PanelRange{0, (p_.key_length + kPanel - 1) / kPanel}; }

  // A tile visits panels of this range.
  bool visits(int64_t head, int64_t tile, PanelRange panels) const {
    const int64_t index = p_.plan->index(head, tile);
    for (int64_t n = p_.plan->offsets[index]; n < p_.plan->offsets[index + 1]; ++n) {
      const PanelRun& run = p_.plan->runs[n];
      if (run.begin < panels.end && run.end > panels.begin) return true;
    }
    return false;
  }

  // Of the panels that the tile visits, those of a range.
  void begin_tile(int64_t head, int64_t tile, PanelRange panels) {
    head_ = head;
    row_begin_ = tile * p_.plan->tile_rows;
    rows_ = std::min(p_.plan->tile_rows, p_.query_length - row_begin_);
    query_rows_.load(batch_, head_, row_begin_, rows_);
    queries_ = operand_rows<E>(query_rows_.row(0), query_rows_.ld(), rows_, query_rows_.padded_width(),
                               packed_queries_.get(), query_ld_);
    const int64_t index = p_.plan->index(head, tile);
    runs_ = p_.plan->runs.data() + p_.plan->offsets[index];
    run_count_ = p_.plan->offsets[index + 1] - p_.plan->offsets[index];
    run_ = 0;
    panels_ = panels;
    next_panel_ = run_count_ > 0 ? std::max<int64_t>(runs_[0].begin, panels.begin) : 0;
    mask_bits_.begin_tile(head, row_begin_, rows_);
    prefetch_.clear();
    const int64_t key_end = run_count_ > 0 ? std::min<int64_t>(runs_[run_count_ - 1].end * kPanel, p_.key_length) : 0;
    const int64_t key_begin = run_count_ > 0 ? runs_[0].begin * kPanel : 0;
    first_distance_ = key_begin - (row_begin_ + rows_ - 1 + p_.query_offset);
    last_distance_ = key_end - 1 - (row_begin_ + p_.query_offset);
    if (p_.relative_key) {
      relative_key_.begin_head(head);
      relative_key_.multiply(queries_, query_ld_, rows_, first_distance_, last_distance_);
    }
    if (p_.relative_bias) bias_.begin_head(head);
    slope_ = p_.slopes ? static_cast<const Acc*>(p_.slopes)[head] : Acc(0);
  }

  // The next few visited panels; false when there are none left.
  bool next_block(PanelBlock& block) {
    block.count = 0;
    while (run_ < run_count_ && block.count < block_panels_) {
      if (next_panel_ >= std::min<int64_t>(runs_[run_].end, panels_.end)) {
        if (++run_ < run_count_) next_panel_ = std::max<int64_t>(runs_[run_].begin, panels_.begin);
        continue;
      }
      const int64_t panel = next_panel_++;
      const PanelMask verdict = mask_bits_.fill(panel, runs_[run_].partial, block.count);
      if (verdict == PanelMask::kEmpty) continue;
      block.panel[block.count] = panel;
      block.masked[block.count] = verdict == PanelMask::kMasked;
      ++block.count;
    }
    if (block.count > 0) {
      find_spans(block);
      find_pieces(block);
    }
    return block.count > 0;
  }

  // S = Q K^T of the block and some of its rows, in natural units and unscaled.
  void multiply(const PanelBlock& block, TileRange rows) {
    multiply(block, rows, queries_, query_ld_, keys_, scores_.get());
  }

  // to (rows, ld()) = left (rows, left_ld) times the panels of a block, where a row block sees them.
  void multiply(const PanelBlock& block, TileRange rows, const Operand* left, int64_t left_ld, PackedPanels<E>& right,
                Acc* to) {
    if (few_rows_) {
      for (int c = 0; c < block.count; ++c) {
        right.few_products(block.panel[c], left, left_ld, rows_, to + c * kPanel, ld_);
      }
      return;
    }
    const Operand* panels[kMaxBlockPanels];
    for (int c = 0; c < block.count; ++c) panels[c] = right.panel(block.panel[c]);
    const int64_t vector_ld = right.vector_ld(), operands = right.operands();
    for_rows(rows, columns_, [&](int64_t row, VectorRange piece) {
      const Operand* keys = panels[piece.begin / kPanelVectors] + piece.begin % kPanelVectors * vector_ld;
      gemm_vectors<E>(piece.end - piece.begin, std::min<int64_t>(kMaskRows<E>, rows_ - row), operands,
                      left + row * left_ld, left_ld, keys, vector_ld, to + row * ld_ + piece.begin * W, ld_);
    });
  }

  // to (rows, width of right) += left (rows, the block's operands) times the rows of its panels that a row block sees.
  void multiply_add_rows(const PanelBlock& block, TileRange rows, const Operand* left, int64_t left_ld,
                         PackedRows<E>& right, Acc* to, int64_t to_ld, int64_t width) {
    const Operand* panels[kMaxBlockPanels];
    for (int c = 0; c < block.count; ++c) panels[c] = right.panel(block.panel[c]);
    for_rows(rows, inner_, [&](int64_t row, VectorRange piece) {
      const Operand* from = panels[piece.begin / kPanelOperands] + piece.begin % kPanelOperands * right.ld();
      gemm<E, Lay::kRows>(std::min<int64_t>(kMaskRows<E>, rows_ - row), width / W, piece.end - piece.begin,
                          left + row * left_ld + piece.begin, left_ld, from, right.ld(), to + row * to_ld, to_ld, true);
    });
  }

  // Row `row` of the block: everything between the product and the softmax. Scores are then log2_factor() short of the
  // log2 domain.
  void finish_row(const PanelBlock& block, int64_t row) {
    for (int c = 0; c < block.count; ++c) {
      if (modified_) {
        modify_row(block, row, c);
      } else if (p_.relative_key) {
        add_relative_key(block, row, c);
      }
      if (block.masked[c]) hide(block, row, c);
    }
  }

  // Has rows brought closer while this tile is multiplied: its own of an output, those that the next tile is likely to
  // need of a tensor of queries, and of a tensor of keys those behind the last visited panel.
  void expect_output(const TensorView& view, int64_t width) {
    prefetch_.add(view, batch_, head_, row_begin_, row_begin_ + rows_, width);
  }
  void expect_queries(const TensorView& view, int64_t width) {
    const int64_t begin = row_begin_ + rows_;
    prefetch_.add(view, batch_, head_, begin, std::min(begin + rows_, p_.query_length), width);
  }
  void expect_keys(const TensorView& view, int64_t width) {
    const int64_t begin = run_count_ > 0 ? runs_[run_count_ - 1].end * kPanel : 0;
    prefetch_.add(view, batch_, key_head_, begin, std::min(begin + rows_, p_.key_length), width);
  }

  // Scores times this are in the log2 domain; positive.
  Acc log2_factor() const { return log2_factor_; }

  // Calls f(begin, end) for each stretch of columns that may hold a visible score of the row.
  template <class F>
  inline __attribute__((always_inline)) void for_each_span(int64_t row, F f) const {
    const Spans& spans = spans_[row / kMaskRows<E>];
    for (int n = 0; n < spans.count; ++n) f(spans.span[n].begin, spans.span[n].end);
  }

  // Calls f(column, vector index within the panel's row) for each vector that may hold a visible score.
  template <class F>
  inline __attribute__((always_inline)) void for_each_vector(const PanelBlock& block, int64_t row, F f) const {
    for (int c = 0; c < block.count; ++c) {
      const VectorRange range = visible(block, row / kMaskRows<E>, c);
      for (int v = range.begin; v < range.end; ++v) f(c, c * kPanel + v * W);
    }
  }

  VectorRange visible(const PanelBlock& block, int64_t row_block, int c) const {
    if (!block.masked[c]) return VectorRange{0, static_cast<int>(kPanel / W)};
    const uint64_t any = mask_bits_.any(row_block, c);
    if (any == 0) return VectorRange{0, 0};
    constexpr int unit = kSpanVectors * W;
    return VectorRange{__builtin_ctzll(any) / unit * kSpanVectors,
                       ((63 - __builtin_clzll(any)) / unit + 1) * kSpanVectors};
  }

  // Distance of column 0 of a panel from a row's position.
  int64_t distance(int64_t row, int64_t panel) const { return panel * kPanel - (row_begin_ + row + p_.query_offset); }

  Acc* row(int64_t r) const { return scores_.get() + r * ld_; }
  Acc* softcap_slope_row(int64_t r) const { return softcap_slope_.get() + r * ld_; }
  const TileRows<E>& query_rows() const { return query_rows_; }
  const MaskBits<kMaskRows<E>>& mask_bits() const { return mask_bits_; }
  int64_t ld() const { return ld_; }
  int64_t batch() const { return batch_; }
  int64_t key_head() const { return key_head_; }
  int64_t head() const { return head_; }
  int64_t row_begin() const { return row_begin_; }
  int64_t rows() const { return rows_; }
  int64_t first_distance() const { return first_distance_; }
  int64_t last_distance() const { return last_distance_; }

 private:
  struct Spans {
    int count;
    ColumnSpan span[kMaxBlockPanels];
  };

  // What a row block sees of a block's columns, as it is multiplied: in pieces that lie in neighbouring panels.
  struct Pieces {
    int count;
    VectorRange piece[kMaxBlockPanels * kPanelVectors];

    void cut(VectorRange range, int most) {
      for_each_piece(range.begin, range.end, most, [&](VectorRange part) { piece[count++] = part; });
    }
  };

  // Calls f(first row, piece): the first piece of all row blocks, the second, ... Neighbours share most of what they
  // read, which then stays near.
  template <class F>
  inline __attribute__((always_inline)) void for_rows(TileRange rows, const Pieces* pieces, F f) {
    bool more = true;
    for (int n = 0; more; ++n) {
      more = false;
      for (int64_t row = rows.begin; row < rows.end; row += kMaskRows<E>) {
        if (n >= pieces[row / kMaskRows<E>].count) continue;
        more = true;
        f(row, pieces[row / kMaskRows<E>].piece[n]);
        prefetch_.step();
      }
    }
  }

  void find_pieces(const PanelBlock& block) {
    for (int64_t row_block = 0; row_block * kMaskRows<E> < rows_; ++row_block) {
      Pieces &columns = columns_[row_block], &inner = inner_[row_block];
      columns.count = inner.count = 0;
      VectorRange vectors{0, 0}, operands{0, 0};  // not yet cut
      const auto cut = [&] {
        columns.cut(vectors, kMaxVectors);
        inner.cut(operands, kMaxInner);
      };
      for (int c = 0; c < block.count; ++c) {
        const uint64_t any = block.masked[c] ? mask_bits_.any(row_block, c) : ~uint64_t{0};
        if (any == 0) continue;
        constexpr int unit = kOnTiles<E> ? kSpanVectors * W : 1;
        const int first = __builtin_ctzll(any) / unit * unit, last = 63 - (__builtin_clzll(any) / unit * unit);
        const int begin = c * kPanelVectors + first / W;
        if (begin != vectors.end || first >= W || c == 0 || block.panel[c] != block.panel[c - 1] + 1) {
          cut();
          vectors.begin = begin;
          operands.begin = c * kPanelOperands + first / E::kPack;
        }
        vectors.end = c * kPanelVectors + last / W + 1;
        operands.end = c * kPanelOperands + last / E::kPack + 1;
      }
      cut();
    }
  }

  void find_spans(const PanelBlock& block) {
    for (int64_t row_block = 0; row_block * kMaskRows<E> < rows_; ++row_block) {
      Spans& spans = spans_[row_block];
      spans.count = 0;
      for (int c = 0; c < block.count; ++c) {
        const VectorRange range = visible(block, row_block, c);
        if (range.begin == range.end) continue;
        const int begin = static_cast<int>(c * kPanel) + range.begin * W;
        const int end = static_cast<int>(c * kPanel) + range.end * W;
        if (spans.count > 0 && spans.span[spans.count - 1].end == begin) {
          spans.span[spans.count - 1].end = end;
        } else {
          spans.span[spans.count++] = ColumnSpan{begin, end};
        }
      }
    }
  }

  void hide(const PanelBlock& block, int64_t row, int c) {
    constexpr uint64_t all = W == 64 ? ~uint64_t{0} : (uint64_t{1} << W) - 1;
    const VectorRange range = visible(block, row / kMaskRows<E>, c);
    const uint64_t bits = mask_bits_.row(row, c);
    Acc* s = this->row(row) + c * kPanel;
    uint64_t hidden = ~bits & range_bits(range.begin * W, range.end * W - 1);
    while (hidden) {
      const int v = __builtin_ctzll(hidden) / W;
      hidden &= ~(all << (v * W));
      store(s + v * W, select_bits<Acc>(bits >> (v * W) & all, load(s + v * W), splat(kHidden)));
    }
  }

  // Where nothing else changes the scores, scaling can wait for the softmax.
  void add_relative_key(const PanelBlock& block, int64_t row, int c) {
    const VectorRange range = visible(block, row / kMaskRows<E>, c);
    const Acc* relative = relative_key_.window(row, distance(row, block.panel[c]));
    Acc* s = this->row(row) + c * kPanel;
    for (int v = range.begin; v < range.end; ++v) store(s + v * W, load(s + v * W) + load(relative + v * W));
  }

  void modify_row(const PanelBlock& block, int64_t row, int c) {
    Acc* s = scores_.get() + row * ld_ + c * kPanel;
    const VectorRange range = visible(block, row / kMaskRows<E>, c);
    const int64_t distance_begin = distance(row, block.panel[c]);
    const Acc* relative = p_.relative_key ? relative_key_.window(row, distance_begin) : nullptr;
    const Acc* bias = p_.relative_bias ? bias_.window(distance_begin) : nullptr;
    alignas(64) Acc added[kPanel];
    if (p_.mask && p_.mask.dtype != DType::kBool) mask_bits_.load_additive(row, block.panel[c], added);
    for (int v = range.begin; v < range.end; ++v) {
      Vec<Acc> x = load(s + v * W);
      if (relative) x += load(relative + v * W);
      x *= scale_;
      if (softcap_ != Acc(0)) {
        const Vec<Acc> t = vtanh<Acc>(x / softcap_);
        x = softcap_ * t;
        if (softcap_slope_.get()) store(softcap_slope_row(row) + c * kPanel + v * W, Acc(1) - t * t);
      }
      if (bias) x += load(bias + v * W);
      if (p_.slopes) {
        const Vec<Acc> d = iota<Acc>() + static_cast<Acc>(distance_begin + v * W);
        x -= slope_ * vabs<Acc>(d);
      }
      if (p_.mask && p_.mask.dtype != DType::kBool) x += load(added + v * W);
      store(s + v * W, x);
    }
  }

  const AttentionParams& p_;
  int block_panels_;
  PackedPanels<E> keys_;
  TileRows<E> query_rows_;
  int64_t query_ld_, ld_;
  Acc scale_, softcap_;
  bool few_rows_, modified_;
  Acc log2_factor_;
  Scratch<Operand> packed_queries_;
  const Operand* queries_ = nullptr;  // (rows, query_ld_)
  Scratch<Acc> scores_;
  Spans spans_[kRowBlocks];
  Pieces columns_[kRowBlocks];  // in vectors
  Pieces inner_[kRowBlocks];    // in operands
  Scratch<Acc> softcap_slope_;  // d softcap(x) / dx
  MaskBits<kMaskRows<E>> mask_bits_;
  PrefetchQueue prefetch_;
  RelativeProduct<E> relative_key_;
  RelativeBias<Acc> bias_;
  int64_t batch_ = -1, key_head_ = -1, head_ = 0, row_begin_ = 0, rows_ = 0;
  const PanelRun* runs_ = nullptr;
  PanelRange panels_{0, 0};
  int64_t run_count_ = 0, run_ = 0, next_panel_ = 0;
  int64_t first_distance_ = 0, last_distance_ = 0;
  Acc slope_ = 0;
};

}  // namespace
}  // namespace seo_kernels::cpu
