// Relative tables without a Tq x Tk tensor: the entries that a query row meets along consecutive keys lie side by side,
// so a row of products with the table, padded by copies of its clipped ends, is added to a row of scores as it stands.
#pragma once

#include "cpu/isa/pack.h"
#include "cpu/isa/scratch.h"
#include "semantics/relative.h"

namespace seo_kernels::cpu {
namespace {

// Layout of one padded row: [kPanel copies of entry 0][2R+1 entries][copies of entry 2R]. Where nobody sees beyond R
// the copies stand for hidden pairs only, and may hold anything.
struct PaddedRow {
  explicit PaddedRow(const RelativeTable& table)
      : clips(table.clips),
        max_distance(table.max_distance),
        entries(table ? table.rows() : 0),
        ld(table ? kPanel + round_up(entries, 16) + kPanel + 16 : 0) {}

  // Where the window of 64 entries that starts at a distance lies.
  int64_t window(int64_t distance) const {
    return kPanel + std::clamp<int64_t>(distance + max_distance, -kPanel, entries);
  }

  template <class Acc>
  void pad(Acc* row) const {
    if (!clips) return;
    std::fill(row, row + kPanel, row[kPanel]);
    std::fill(row + kPanel + entries, row + kPanel + entries + kPanel, row[kPanel + entries - 1]);
  }

  // The reverse of pad: what was added to the copies belongs to the ends.
  template <class Acc>
  void fold(Acc* row) const {
    if (!clips) return;
    Vec<Acc> low{}, high{};
    for (int64_t n = 0; n < kPanel; n += kLanes<Acc>) {
      low += load(row + n);
      high += load(row + kPanel + entries + n);
    }
    row[kPanel] += reduce_add<Acc>(low);
    row[kPanel + entries - 1] += reduce_add<Acc>(high);
  }

  // What of a row counts: [begin, end).
  int64_t begin() const { return clips ? 0 : kPanel; }
  int64_t end() const { return clips ? ld : kPanel + round_up(entries, 16); }

  bool clips;
  int64_t max_distance, entries, ld;
};

// Rows of X times a table over relative positions: X (rows, width) with table (2R+1, width).
template <class E>
class RelativeProduct {
 public:
  using Acc = typename E::Acc;
  using Operand = typename E::Operand;

  RelativeProduct(const RelativeTable& table, int64_t width)
      : table_(table),
        layout_(table),
        width_(width),
        operands_(round_up((width + E::kPack - 1) / E::kPack, kLanes<Acc>)),
        panels_((layout_.entries + kPanel - 1) / kPanel),
        wide_(table ? kPanel * operands_ * E::kPack : 0),
        narrow_(table ? kPanel * operands_ : 0),
        packed_(panels_ * operands_ * kPanel),
        products_(kMaxTileRows * layout_.ld) {}

  void begin_head(int64_t head) {
    const Acc* source = static_cast<const Acc*>(table_.data) + (table_.per_head ? head * layout_.entries * width_ : 0);
    if (source == current_) return;
    current_ = source;
    const int64_t wide_ld = operands_ * E::kPack;
    for (int64_t panel = 0; panel < panels_; ++panel) {
      const int64_t count = std::min(kPanel, layout_.entries - panel * kPanel);
      std::fill(wide_.get(), wide_.get() + kPanel * wide_ld, Acc(0));
      for (int64_t n = 0; n < count; ++n) {
        std::copy_n(source + (panel * kPanel + n) * width_, width_, wide_.get() + n * wide_ld);
      }
      to_operand_rows<E>(wide_.get(), wide_ld, kPanel, wide_ld, narrow_.get(), operands_);
      transpose_panel(narrow_.get(), operands_, operands_, packed_.get() + panel * operands_ * kPanel);
    }
  }

  // Products with the entries that distances [first, last] reach.
  void multiply(const Operand* x, int64_t ld, int64_t rows, int64_t first, int64_t last) {
    constexpr int W = kLanes<Acc>;
    const int64_t begin = relative_index(first, layout_.max_distance) / W;
    const int64_t end = relative_index(last, layout_.max_distance) / W + 1;
    for_each_piece(static_cast<int>(begin), static_cast<int>(end), kMaxColumnVectors, [&](VectorRange piece) {
      gemm_vectors<E>(piece.end - piece.begin, rows, (width_ + E::kPack - 1) / E::kPack, x, ld,
                      packed_.get() + piece.begin * operands_ * W, operands_ * W,
                      products_.get() + kPanel + piece.begin * W, layout_.ld);
    });
    for (int64_t r = 0; r < rows; ++r) layout_.pad(products_.get() + r * layout_.ld);
  }

  const Acc* window(int64_t row, int64_t distance) const {
    return products_.get() + row * layout_.ld + layout_.window(distance);
  }

 private:
  RelativeTable table_;
  PaddedRow layout_;
  int64_t width_, operands_, panels_;
  const Acc* current_ = nullptr;
  Scratch<Acc> wide_;
  Scratch<Operand> narrow_;
  Scratch<Operand> packed_;  // (panels, kPanel / lanes, operands_, lanes)
  Scratch<Acc> products_;    // (rows, ld)
};

// One row per head, the same for all queries.
template <class Acc>
class RelativeBias {
 public:
  explicit RelativeBias(const RelativeTable& table) : table_(table), layout_(table), row_(layout_.ld) {}

  void begin_head(int64_t head) {
    const Acc* source = static_cast<const Acc*>(table_.data) + (table_.per_head ? head * layout_.entries : 0);
    if (source == current_) return;
    current_ = source;
    std::copy_n(source, layout_.entries, row_.get() + kPanel);
    layout_.pad(row_.get());
  }

  const Acc* window(int64_t distance) const { return row_.get() + layout_.window(distance); }

 private:
  RelativeTable table_;
  PaddedRow layout_;
  const Acc* current_ = nullptr;
  Scratch<Acc> row_;
};

// Sums of score-like values by relative position, one padded row per query: the transpose of RelativeProduct::window.
template <class E>
class RelativeSums {
 public:
  using Acc = typename E::Acc;
  using Operand = typename E::Operand;

  RelativeSums(const RelativeTable& table, int64_t width)
      : table_(table),
        layout_(table),
        width_(width),
        columns_(round_up(width, kLanes<Acc>)),
        table_rows_((layout_.entries + E::kPack - 1) / E::kPack),
        sums_(kMaxTileRows * layout_.ld),
        padded_table_(table ? round_up(layout_.entries, 2) * columns_ : 0),
        table_operands_(table ? table_rows_ * columns_ : 0),
        row_operands_(table && E::kPack > 1 ? kMaxTileRows * layout_.ld : 0) {}

  void begin_tile(int64_t rows) {
    for (int64_t r = 0; r < rows; ++r) {
      Acc* sums = sums_.get() + r * layout_.ld;
      std::fill(sums + layout_.begin(), sums + layout_.end(), Acc(0));
    }
  }

  Acc* window(int64_t row, int64_t distance) { return sums_.get() + row * layout_.ld + layout_.window(distance); }

  // Adds a vector of a window, which is met once. Unless pairs beyond R share an entry there is nothing to add to.
  inline __attribute__((always_inline)) void add(Acc* at, Vec<Acc> v) const {
    store(at, layout_.clips ? load(at) + v : v);
  }

  void rescale_row(int64_t row, Acc factor) {
    Acc* sums = sums_.get() + row * layout_.ld;
    for (int64_t n = layout_.begin(); n < layout_.end(); ++n) sums[n] *= factor;
  }

  void fold(int64_t rows) {
    for (int64_t r = 0; r < rows; ++r) layout_.fold(sums_.get() + r * layout_.ld);
  }

  // c (rows, columns) += sums (rows, 2R+1) table (2R+1, width), after fold().
  void multiply_table(int64_t head, int64_t rows, Acc* c, int64_t ldc) {
    load_table(head);
    const int64_t inner = round_up(layout_.entries, E::kPack);
    for (int64_t r = 0; r < rows; ++r) {
      Acc* sums = sums_.get() + r * layout_.ld + kPanel;
      if (inner > layout_.entries) sums[layout_.entries] = Acc(0);
    }
    const Operand* x = operand_rows<E>(sums_.get() + kPanel, layout_.ld, rows, inner, row_operands_.get(), layout_.ld);
    gemm<E, Lay::kRows>(rows, columns_ / kLanes<Acc>, inner / E::kPack, x, layout_.ld, table_operands_.get(), columns_,
                        c, ldc, true);
  }

  // table_gradient (2R+1, columns) += sums^T (2R+1, rows) x, with x (rows, columns) as operands down columns.
  void multiply_rows(const Operand* x, int64_t ldx, int64_t rows, Acc* table_gradient) {
    const Operand* sums = operand_columns<E>(sums_.get() + kPanel, layout_.ld, rows,
                                             round_up(layout_.entries, kLanes<Acc>), row_operands_.get(), layout_.ld);
    gemm<E, Lay::kColumns>(layout_.entries, columns_ / kLanes<Acc>, (rows + E::kPack - 1) / E::kPack, sums, layout_.ld,
                           x, ldx, table_gradient, columns_, true);
  }

  int64_t columns() const { return columns_; }

 private:
  void load_table(int64_t head) {
    const Acc* source = static_cast<const Acc*>(table_.data) + (table_.per_head ? head * layout_.entries * width_ : 0);
    if (source == current_) return;
    current_ = source;
    std::fill(padded_table_.get(), padded_table_.get() + round_up(layout_.entries, 2) * columns_, Acc(0));
    for (int64_t n = 0; n < layout_.entries; ++n) {
      std::copy_n(source + n * width_, width_, padded_table_.get() + n * columns_);
    }
    to_operand_columns<E>(padded_table_.get(), columns_, layout_.entries, columns_, table_operands_.get(), columns_);
  }

  RelativeTable table_;
  PaddedRow layout_;
  int64_t width_, columns_, table_rows_;
  const Acc* current_ = nullptr;
  Scratch<Acc> sums_;                // (rows, ld)
  Scratch<Acc> padded_table_;        // (2R+1, columns_)
  Scratch<Operand> table_operands_;  // (table_rows_, columns_)
  Scratch<Operand> row_operands_;
};

}  // namespace
}  // namespace seo_kernels::cpu
