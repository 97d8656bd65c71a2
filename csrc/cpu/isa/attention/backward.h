// Attention backward for a range of query tiles: dQ of each tile, dK and dV summed per head, table gradients per slot.
#pragma once

#include "cpu/isa/attention/gradient_tile.h"
#include "cpu/isa/attention/packed_rows.h"

namespace seo_kernels::cpu {
namespace {

// A head's key or value gradient while its query tiles are worked on: (key length, width) by panels, zeroed when first
// touched. They are summed up where the result shall lie if that is possible: then nothing is left to be copied.
// On tile registers a panel is transposed, (width, kPanel): queries and dO are then the left side of all products,
// which has to be brought into shape, and the weights the right one.
template <class E>
class PanelSums {
 public:
  using Acc = typename E::Acc;

  PanelSums(const TensorView& view, int64_t length, int64_t width)
      : view_(view),
        length_(length),
        width_(width),
        ld_(round_up(width, kLanes<Acc>)),
        panels_((length + kPanel - 1) / kPanel),
        can_be_in_place_(readable_in_place<E>(view) && view.stride[2] == width && width == ld_),
        touched_(panels_) {}

  // whole: no other slot works on this head.
  void begin_head(int64_t batch, int64_t head, bool whole) {
    batch_ = batch;
    head_ = head;
    in_place_ = whole && can_be_in_place_;
    if (!in_place_ && !sums_.get()) sums_ = Scratch<Acc>(panels_ * kPanel * ld_);
    if (in_place_ && length_ % kPanel != 0 && !last_.get()) last_ = Scratch<Acc>(kPanel * ld_);
    std::fill(touched_.get(), touched_.get() + panels_, uint8_t{0});
  }

  // (kPanel, ld()), or transposed (ld(), kPanel)
  Acc* panel(int64_t panel) {
    Acc* sums = place(panel);
    if (!touched_[panel]) {
      touched_[panel] = 1;
      std::fill(sums, sums + kPanel * ld_, Acc(0));
    }
    return sums;
  }

  void store_head() {
    for (int64_t n = 0; n < panels_; ++n) {
      const Acc* sums = rows(n);
      const int64_t count = std::min(kPanel, length_ - n * kPanel);
      if (in_place_ && count == kPanel) continue;
      store_rows(view_, batch_, head_, n * kPanel, count, width_, sums, ld_);
    }
  }

  void copy_to(Acc* to) {
    for (int64_t n = 0; n < panels_; ++n) {
      const Acc* sums = rows(n);
      const int64_t end = std::min((n + 1) * kPanel, length_);
      for (int64_t row = n * kPanel; row < end; ++row, sums += ld_) std::copy_n(sums, width_, to + row * width_);
    }
  }

  int64_t ld() const { return ld_; }

 private:
  // (kPanel, ld())
  const Acc* rows(int64_t n) {
    const Acc* sums = panel(n);
    if constexpr (!kOnTiles<E>) return sums;
    if (!transposed_.get()) transposed_ = Scratch<Acc>(kPanel * ld_);
    transpose(sums, kPanel, ld_, kPanel, transposed_.get(), ld_);
    return transposed_.get();
  }

  // The last panel may be shorter than the products that are added to it: it is never in place then.
  Acc* place(int64_t panel) const {
    if (!in_place_) return sums_.get() + panel * kPanel * ld_;
    if ((panel + 1) * kPanel > length_) return last_.get();
    return static_cast<Acc*>(view_.data) + batch_ * view_.stride[0] + head_ * view_.stride[1] +
           panel * kPanel * view_.stride[2];
  }

  const TensorView& view_;
  int64_t length_, width_, ld_, panels_;
  bool can_be_in_place_, in_place_ = false;
  int64_t batch_ = -1, head_ = -1;
  Scratch<Acc> sums_, last_, transposed_;
  Scratch<uint8_t> touched_;
};

// The gradient of a (2R+1, width) table while the tiles of a head are worked on.
template <class E>
class TableGradient {
 public:
  using Acc = typename E::Acc;

  TableGradient(void* to, const RelativeTable& table, int64_t width, int64_t heads, int64_t slot)
      : sums(table, width),
        to_(static_cast<Acc*>(to)),
        per_head_(table.per_head),
        entries_(table ? table.rows() : 0),
        width_(width),
        gradient_(entries_ * sums.columns()) {
    if (to_) to_ += slot * (per_head_ ? heads : 1) * entries_ * width_;
    clear();
  }

  explicit operator bool() const { return to_ != nullptr; }

  // Rows: the query side (Q or dO) as operands down columns.
  void add(const typename E::Operand* rows, int64_t ld, int64_t count) {
    sums.multiply_rows(rows, ld, count, gradient_.get());
  }

  // Adds what was gathered to the slot's copy.
  void flush(int64_t head) {
    if (!to_) return;
    Acc* to = to_ + (per_head_ ? head * entries_ * width_ : 0);
    for (int64_t n = 0; n < entries_; ++n) {
      for (int64_t d = 0; d < width_; ++d) to[n * width_ + d] += gradient_[n * sums.columns() + d];
    }
    clear();
  }

  RelativeSums<E> sums;

 private:
  void clear() { std::fill(gradient_.get(), gradient_.get() + entries_ * sums.columns(), Acc(0)); }

  Acc* to_;
  bool per_head_;
  int64_t entries_, width_;
  Scratch<Acc> gradient_;
};

template <class E>
class BackwardTile {
 public:
  using Acc = typename E::Acc;
  using Operand = typename E::Operand;
  static constexpr int W = kLanes<Acc>;
  static constexpr int kBlockPanels = 2;
  static constexpr int64_t kLeftLd = kMaxTileRows / E::kPack;

  BackwardTile(const AttentionBackwardParams& p, int64_t slot)
      : p_(p),
        slot_(slot),
        tile_(p, kBlockPanels),
        keys_(p.key, p.key_length, p.dim),
        key_sums_(p.grad_key, p.grad_key ? p.key_length : 0, p.dim),
        value_sums_(p.grad_value, p.grad_value ? p.key_length : 0, p.value_dim),
        relative_key_(p.grad_relative_key, p.relative_key, p.dim, p.query_heads, slot),
        relative_value_(p.grad_relative_value, p.relative_value, p.value_dim, p.query_heads, slot),
        bias_layout_(p.relative_bias),
        bias_sums_(bias_layout_.ld),
        scale_when_rounded_(E::kPack > 1 && p.softcap == 0.0 && !p.relative_key),
        query_width_(round_up(p.dim, W)),
        packed_queries_(E::kPack > 1 ? kMaxTileRows / E::kPack * query_width_ : 0),
        packed_grad_out_(E::kPack > 1 ? kMaxTileRows / E::kPack * round_up(p.value_dim, W) : 0),
        left_queries_(kOnTiles<E> ? query_width_ * kLeftLd : 0),
        left_grad_out_(kOnTiles<E> ? value_sums_.ld() * kLeftLd : 0),
        weight_columns_(E::kPack > 1 ? kMaxTileRows / E::kPack * ld() : 0),
        gradient_columns_(E::kPack > 1 ? kMaxTileRows / E::kPack * ld() : 0) {}

  void run(UnitRange units) {
    const int64_t group = p_.group(), tiles = p_.plan->tiles, per_head = group * tiles;
    for (int64_t unit = units.begin; unit < units.end;) {
      const int64_t index = unit / per_head, batch = index / p_.key_heads, key_head = index % p_.key_heads;
      const UnitRange part{unit, std::min((index + 1) * per_head, units.end)};
      const bool whole = part.begin == index * per_head && part.end == (index + 1) * per_head;
      begin_key_head(batch, key_head, whole);
      const PanelRange all = tile_.scores().all_panels();
      const int64_t most = chunk_panels(all);
      const int64_t kept = most < all.end ? part.end - part.begin : 1;
      if (kept > kept_tiles_) grad_query_ = Scratch<Acc>((kept_tiles_ = kept) * kMaxTileRows * query_width_);
      for (PanelRange chunk{0, most}; chunk.begin < std::max<int64_t>(all.end, 1); chunk.begin += most) {
        chunk.end = std::min(chunk.begin + most, all.end);
        for (unit = part.begin; unit < part.end; ++unit) {
          const int64_t head = key_head * group + unit / tiles % group;
          Acc* grad_query = grad_query_.get() + (unit - part.begin) % kept * kMaxTileRows * query_width_;
          run_tile(head, unit % tiles, chunk, grad_query);
          if (chunk.end == all.end) store_grad_query(head, unit % tiles, grad_query);
          if (unit + 1 == part.end || (unit + 1) % tiles == 0) flush_tables(head);
        }
      }
      flush_key_head(whole, part.begin == units.begin ? 0 : 1);
    }
  }

 private:
  int64_t ld() { return tile_.scores().ld(); }

  void begin_key_head(int64_t batch, int64_t key_head, bool whole) {
    tile_.begin_head(batch, key_head);
    keys_.begin_head(batch, key_head, tile_.scores().mask_bits().key_count());
    key_sums_.begin_head(batch, key_head, whole);
    value_sums_.begin_head(batch, key_head, whole);
  }

  // A head that this slot works on alone goes straight out; of a shared one each slot leaves its part.
  void flush_key_head(bool whole, int64_t part) {
    if (p_.grad_key) {
      if (whole) {
        key_sums_.store_head();
      } else {
        key_sums_.copy_to(static_cast<Acc*>(p_.partial_key) + (slot_ * 2 + part) * p_.key_length * p_.dim);
      }
    }
    if (p_.grad_value) {
      if (whole) {
        value_sums_.store_head();
      } else {
        value_sums_.copy_to(static_cast<Acc*>(p_.partial_value) + (slot_ * 2 + part) * p_.key_length * p_.value_dim);
      }
    }
  }

  // Where tiles see many keys, these are taken in chunks: what is read and summed up of a chunk stays near for all
  // tiles. A tile's part in the gradients of tables is gathered at once.
  int64_t chunk_panels(PanelRange all) const {
    constexpr int64_t near = (int64_t{1} << 20) / sizeof(Acc), few = 16;
    const int64_t per_key = p_.dim + p_.value_dim + (2 * p_.dim + p_.value_dim) / E::kPack;
    const int64_t most = std::max<int64_t>(few / 4, near / (per_key * kPanel));
    const std::vector<int64_t>& visited = p_.plan->panels;
    const bool tables = p_.relative_key || p_.relative_value || p_.relative_bias;
    if (tables || *std::max_element(visited.begin(), visited.end()) <= std::max(few, most)) {
      return std::max<int64_t>(all.end, 1);
    }
    const int64_t chunks = (all.end + most - 1) / most;
    return (all.end + chunks - 1) / chunks;
  }

  void run_tile(int64_t head, int64_t tile, PanelRange panels, Acc* grad_query) {
    const bool first = panels.begin == 0;
    if (!first && !tile_.scores().visits(head, tile, panels)) return;
    tile_.begin_tile(head, tile, panels);
    const int64_t rows = tile_.scores().rows();
    load_query_side(rows);
    if (first) std::fill(grad_query, grad_query + rows * query_width_, Acc(0));
    if (p_.relative_key) relative_key_.sums.begin_tile(rows);
    if (relative_value_) relative_value_.sums.begin_tile(rows);
    if (p_.grad_relative_bias) std::fill(bias_sums_.get(), bias_sums_.get() + bias_layout_.ld, Acc(0));
    PanelBlock block;
    while (tile_.next_block(block)) {
      for (int64_t begin = 0; begin < rows; begin += ScoreTile<E>::kRowsAtOnce) {
        const TileRange part{begin, std::min(begin + ScoreTile<E>::kRowsAtOnce, rows)};
        tile_.compute(block, part);
        for (int64_t r = part.begin; r < part.end; ++r) table_sums(block, r);
        if (!scale_when_rounded_) {
          for (int64_t r = part.begin; r < part.end; ++r) to_product_gradient(block, r);
        }
        if constexpr (E::kPack > 1) round_rows(block, part);
        if (p_.grad_query) {  // dQ += dS K
          tile_.scores().multiply_add_rows(block, part, gradient_rows(), ld(), keys_, grad_query, query_width_,
                                           query_width_);
        }
      }
      for (int c = 0; c < block.count; ++c) add_key_side(block, c);
    }
    finish_tile(head, rows, grad_query, first);
  }

  void load_query_side(int64_t rows) {
    const TileRows<E>& queries = tile_.scores().query_rows();
    const TileRows<E>& grad_out = tile_.grad_out();
    query_ld_ = E::kPack > 1 ? query_width_ : queries.ld();
    queries_ = operand_columns<E>(queries.row(0), queries.ld(), rows, query_width_, packed_queries_.get(), query_ld_);
    grad_out_ld_ = E::kPack > 1 ? value_sums_.ld() : grad_out.ld();
    grad_out_ = operand_columns<E>(grad_out.row(0), grad_out.ld(), rows, value_sums_.ld(), packed_grad_out_.get(),
                                   grad_out_ld_);
    if constexpr (kOnTiles<E>) {
      const int64_t pairs = round_up((rows + 1) / 2, W);
      transpose(queries_, query_ld_, pairs, query_width_, left_queries_.get(), kLeftLd);
      transpose(grad_out_, grad_out_ld_, pairs, value_sums_.ld(), left_grad_out_.get(), kLeftLd);
    }
  }

  // Gradients of what is added to the scores or weighs the values by relative position, before softcap's derivative.
  void table_sums(const PanelBlock& block, int64_t r) {
    ScoreTile<E>& scores = tile_.scores();
    if (relative_value_) {
      const Acc* weights = tile_.weights(r);
      scores.for_each_vector(block, r, [&](int c, int64_t at) {
        Acc* sums = relative_value_.sums.window(r, scores.distance(r, block.panel[c])) + (at - c * kPanel);
        relative_value_.sums.add(sums, load(weights + at));
      });
    }
    const Acc* gradients = tile_.gradients(r);
    if (p_.grad_relative_bias) {
      scores.for_each_vector(block, r, [&](int c, int64_t at) {
        Acc* sums = bias_sums_.get() + bias_layout_.window(scores.distance(r, block.panel[c])) + (at - c * kPanel);
        store(sums, load(sums) + load(gradients + at));
      });
    }
    if (p_.grad_slopes) {
      Vec<Acc> sum{};
      scores.for_each_vector(block, r, [&](int c, int64_t at) {
        const Acc begin = static_cast<Acc>(scores.distance(r, block.panel[c]) + at - c * kPanel);
        sum += load(gradients + at) * vabs<Acc>(iota<Acc>() + begin);
      });
      slope_sum_ -= reduce_add<Acc>(sum);
    }
  }

  // From the gradient of the scores to that of the bare product q.k: through softcap and scale.
  void to_product_gradient(const PanelBlock& block, int64_t r) {
    ScoreTile<E>& scores = tile_.scores();
    Acc* gradients = tile_.gradients(r);
    const Acc scale = static_cast<Acc>(p_.scale);
    const Acc* slopes = p_.softcap != 0.0 ? scores.softcap_slope_row(r) : nullptr;
    const auto product_gradient = [&](int64_t at) {
      Vec<Acc> g = load(gradients + at);
      // A hidden score's slope may hold anything: its gradient of zero must win.
      if (slopes) g = g == Acc(0) ? g : g * load(slopes + at);
      store(gradients + at, g * scale);
      return g * scale;
    };
    if (!p_.relative_key) {
      scores.for_each_span(r, [&](int at, int end) {
        for (; at < end; at += W) product_gradient(at);
      });
      return;
    }
    scores.for_each_vector(block, r, [&](int c, int64_t at) {
      Acc* sums = relative_key_.sums.window(r, scores.distance(r, block.panel[c])) + (at - c * kPanel);
      relative_key_.sums.add(sums, product_gradient(at));
    });
  }

  // Weights and gradients as operands down columns; gradients also along rows, in their own place.
  void round_rows(const PanelBlock& block, TileRange rows) {
#if defined(SK_ISA_AVX512_BF16)
    const int64_t columns = block.count * kPanel;
    const Acc scale = scale_when_rounded_ ? static_cast<Acc>(p_.scale) : Acc(1);
    for (int64_t r = rows.begin; r < rows.end; r += 2) {
      const bool both = r + 1 < rows.end;
      Acc *even = tile_.gradients(r), *odd = both ? tile_.gradients(r + 1) : even;
      const Acc *even_weights = tile_.weights(r), *odd_weights = both ? tile_.weights(r + 1) : even_weights;
      Operand *weights = weight_columns_.get() + r / 2 * ld(), *gradients = gradient_columns_.get() + r / 2 * ld();
      const auto pair = [&](Vec<Acc> low, Vec<Acc> high) {
        return (Vec<Operand>)pair_rows(low, both ? high : Vec<Acc>{});
      };
      for (int64_t n = 0; n < columns; n += 2 * W) {
        const Vec<Acc> even_first = load(even + n) * scale, even_second = load(even + n + W) * scale;
        const Vec<Acc> odd_first = load(odd + n) * scale, odd_second = load(odd + n + W) * scale;
        store(weights + n, pair(load(even_weights + n), load(odd_weights + n)));
        store(weights + n + W, pair(load(even_weights + n + W), load(odd_weights + n + W)));
        store(gradients + n, pair(even_first, odd_first));
        store(gradients + n + W, pair(even_second, odd_second));
        store_operands<E>(reinterpret_cast<Operand*>(even), n, even_first, even_second);
        if (both) store_operands<E>(reinterpret_cast<Operand*>(odd), n, odd_first, odd_second);
      }
    }
#endif
  }

  const Operand* gradient_rows() { return reinterpret_cast<const Operand*>(tile_.gradients(0)); }
  const Operand* gradient_columns() {
    if constexpr (E::kPack > 1)
      return gradient_columns_.get();
    else
      return tile_.gradients(0);
  }
  const Operand* weight_columns() {
    if constexpr (E::kPack > 1)
      return weight_columns_.get();
    else
      return tile_.weights(0);
  }

  // dV += P^T dO, dK += dS^T Q: of a masked panel, 16 keys at a time over the rows that see any of them.
  void add_key_side(const PanelBlock& block, int c) {
    constexpr int64_t kKeys = kOnTiles<E> ? 2 * kTileRows : 16;
    if (!block.masked[c]) {
      add_keys(block.panel[c], c, 0, kPanel, 0, tile_.scores().rows());
      return;
    }
    const int64_t rows = tile_.scores().rows();
    for (int64_t key = 0; key < kPanel; key += kKeys) {
      const uint64_t wanted = range_bits(key, key + kKeys - 1);
      int64_t begin = rows, end = 0;
      for (int64_t row = 0; row < rows; row += kMaskRows<E>) {
        if ((tile_.scores().mask_bits().any(row / kMaskRows<E>, c) & wanted) == 0) continue;
        begin = std::min(begin, row);
        end = std::min<int64_t>(row + kMaskRows<E>, rows);
      }
      if (begin < end) add_keys(block.panel[c], c, key, kKeys, begin, end);
    }
  }

  void add_keys(int64_t panel, int c, int64_t key, int64_t count, int64_t row_begin, int64_t row_end) {
    const int64_t first = row_begin / E::kPack, inner = (row_end + E::kPack - 1) / E::kPack - first;
    const int64_t at = first * ld() + c * kPanel + key;
    if constexpr (kOnTiles<E>) {
      const auto add = [&](PanelSums<E>& sums, const Operand* left, const Operand* right) {
        gemm<E, Lay::kRows>(sums.ld(), count / W, inner, left + first, kLeftLd, right + at, ld(),
                            sums.panel(panel) + key, kPanel, true);
      };
      if (p_.grad_value) add(value_sums_, left_grad_out_.get(), weight_columns());
      if (p_.grad_key) add(key_sums_, left_queries_.get(), gradient_columns());
      return;
    }
    if (p_.grad_value) {
      const int64_t width = value_sums_.ld();
      gemm<E, Lay::kColumns>(count, width / W, inner, weight_columns() + at, ld(), grad_out_ + first * grad_out_ld_,
                             grad_out_ld_, value_sums_.panel(panel) + key * width, width, true);
    }
    if (p_.grad_key) {
      const int64_t width = key_sums_.ld();
      gemm<E, Lay::kColumns>(count, width / W, inner, gradient_columns() + at, ld(), queries_ + first * query_ld_,
                             query_ld_, key_sums_.panel(panel) + key * width, width, true);
    }
  }

  void store_grad_query(int64_t head, int64_t tile, const Acc* grad_query) {
    if (!p_.grad_query) return;
    const int64_t begin = tile * p_.plan->tile_rows, rows = std::min(p_.plan->tile_rows, p_.query_length - begin);
    store_rows(p_.grad_query, tile_.scores().batch(), head, begin, rows, p_.dim, grad_query, query_width_);
  }

  // first: this tile's first chunk of keys.
  void finish_tile(int64_t head, int64_t rows, Acc* grad_query, bool first) {
    if (p_.relative_key) {
      relative_key_.sums.fold(rows);
      relative_key_.sums.multiply_table(head, rows, grad_query, query_width_);
      if (relative_key_) relative_key_.add(queries_, query_ld_, rows);
    }
    if (relative_value_) {
      relative_value_.sums.fold(rows);
      relative_value_.add(grad_out_, grad_out_ld_, rows);
    }
    if (p_.grad_relative_bias) {
      bias_layout_.fold(bias_sums_.get());
      Acc* to = static_cast<Acc*>(p_.grad_relative_bias) + (slot_ * p_.query_heads + head) * bias_layout_.entries;
      for (int64_t n = 0; n < bias_layout_.entries; ++n) to[n] += bias_sums_[kPanel + n];
    }
    if (p_.grad_slopes) {
      static_cast<Acc*>(p_.grad_slopes)[slot_ * p_.query_heads + head] += slope_sum_;
      slope_sum_ = 0;
    }
    if (p_.grad_sinks && first) {
      const Acc sink = static_cast<const Acc*>(p_.sinks)[head] * Acc(kLog2E);
      Acc sum = 0;
      for (int64_t r = 0; r < rows; ++r) {
        const Acc weight = exp2<Acc>(splat(sink - tile_.shift(r)))[0];
        sum -= weight == Acc(0) ? Acc(0) : weight * tile_.delta(r);
      }
      static_cast<Acc*>(p_.grad_sinks)[slot_ * p_.query_heads + head] += sum;
    }
  }

  void flush_tables(int64_t head) {
    relative_key_.flush(head);
    relative_value_.flush(head);
  }

  const AttentionBackwardParams& p_;
  int64_t slot_;
  GradientTile<E> tile_;
  PackedRows<E> keys_;
  PanelSums<E> key_sums_, value_sums_;
  TableGradient<E> relative_key_, relative_value_;
  PaddedRow bias_layout_;
  Scratch<Acc> bias_sums_;
  Acc slope_sum_ = 0;
  bool scale_when_rounded_;
  int64_t query_width_, query_ld_ = 0, grad_out_ld_ = 0;
  Scratch<Operand> packed_queries_, packed_grad_out_;
  const Operand *queries_ = nullptr, *grad_out_ = nullptr;  // down columns, for dK, dV and the tables
  Scratch<Operand> left_queries_, left_grad_out_;           // on tiles transposed, for dK and dV
  Scratch<Operand> weight_columns_, gradient_columns_;
  int64_t kept_tiles_ = 0;
  Scratch<Acc> grad_query_;  // (kept tiles, kMaxTileRows, query_width_)
};

}  // namespace
}  // namespace seo_kernels::cpu
