// The blocked product of linear/matmul.h on tile registers.
//
// A row block of A is copied into the order in which its tiles are loaded. It lies in the second-level cache, while a
// chunk of a panel of B, 32 columns wide, lies in the first and meets all of its rows; meanwhile B's next chunk comes
// closer, a few lines a step.
#pragma once

#include "cpu/isa/linear/matmul.h"

#if defined(SK_ISA_AMX_BF16)

namespace seo_kernels::cpu {
namespace {

constexpr int64_t kTilePairRows = 2 * kTileRows;                          // of A: two tiles, one above the other
constexpr int64_t kTilePairSize = kTilePairRows * kTileOperands;          // operands
constexpr int64_t kTileColumns = kPanelColumns<BFloat16Engine>;           // of B: two tiles side by side
constexpr int64_t kLine = 64;                                             // bytes
constexpr int64_t kStepLines = kTilePairSize * sizeof(uint32_t) / kLine;  // of A or B, that a step reads

// C (kTilePairRows, NT tiles of kTileColumns) = or += A B over `steps`. Each step asks for as many `lines` more of what
// lies at `next`.
template <int NT>
inline void tile_steps(int64_t steps, const uint32_t* a, const uint32_t* b, int64_t b_row, float* c, bool accumulate,
                       const char* next, int64_t lines) {
  constexpr int64_t kBeside = kTileColumns / 2, kStride = kTileColumns * sizeof(float), kTileStride = kLine;
  float* below = c + kTileRows * kTileColumns;
  const int64_t b_stride = b_row * static_cast<int64_t>(sizeof(uint32_t));
  tile_fence();
  if (accumulate) {
    _tile_loadd(0, c, kStride);
    _tile_loadd(2, below, kStride);
    if constexpr (NT > 1) _tile_loadd(1, c + kBeside, kStride);
    if constexpr (NT > 1) _tile_loadd(3, below + kBeside, kStride);
  } else {
    _tile_zero(0);
    _tile_zero(2);
    if constexpr (NT > 1) _tile_zero(1);
    if constexpr (NT > 1) _tile_zero(3);
  }
  const auto closer = [](const uint32_t* tile) __attribute__((always_inline)) {
#pragma GCC unroll 16
    for (int64_t row = 0; row < kTileRows; ++row) __builtin_prefetch(tile + row * kTileOperands);
  };
  for (; steps > 0; --steps) {
    _tile_loadd(6, b, b_stride);
    _tile_loadd(4, a, kTileStride);
    closer(a + kTilePairSize);
    for (int64_t line = 0; line < lines; ++line) __builtin_prefetch(next + line * kLine, 0, 2);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(5, a + kTilePairSize / 2, kTileStride);
    _tile_dpbf16ps(2, 5, 6);
    if constexpr (NT > 1) _tile_loadd(7, b + kBeside, b_stride);
    closer(a + kTilePairSize + kTilePairSize / 2);
    if constexpr (NT > 1) _tile_dpbf16ps(1, 4, 7);
    if constexpr (NT > 1) _tile_dpbf16ps(3, 5, 7);
    a += kTilePairSize;
    b += kTileOperands * b_row;
    next += lines * kLine;
  }
  _tile_stored(0, c, kStride);
  _tile_stored(2, below, kStride);
  if constexpr (NT > 1) _tile_stored(1, c + kBeside, kStride);
  if constexpr (NT > 1) _tile_stored(3, below + kBeside, kStride);
  tile_fence();
}

// Part of a pass: steps of kTileOperands operands.
struct TileChunk {
  int64_t begin, steps;
};

// Rows of A as tiles: (chunks, pairs of tiles, steps, 2, kTileRows, kTileOperands), with zeros around the matrix.
class TileRows {
 public:
  TileRows(int64_t max_rows, int64_t max_operands)
      : packed_(round_up(max_rows, kTilePairRows) * round_up(max_operands, kTileOperands) + kTilePairSize) {}

  void load(const uint32_t* from, int64_t ld, int64_t rows, int64_t operands) {
    pairs_ = (rows + kTilePairRows - 1) / kTilePairRows;
    steps_ = (operands + kTileOperands - 1) / kTileOperands;
    const int64_t rest = operands % kTileOperands;
    const __mmask16 last = static_cast<__mmask16>(rest > 0 ? (1u << rest) - 1 : 0xFFFFu);
    for (int64_t n = 0; n < chunks(); ++n) {
      const TileChunk part = chunk(n);
      for (int64_t row = 0; row < pairs_ * kTilePairRows; ++row) {
        uint32_t* to = packed_.get() + offset(part, row / kTilePairRows) + row % kTilePairRows * kTileOperands;
        const uint32_t* at = from + row * ld + part.begin * kTileOperands;
        for (int64_t step = 0; step < part.steps; ++step, to += kTilePairSize, at += kTileOperands) {
          const __mmask16 lanes = row >= rows ? 0 : part.begin + step + 1 == steps_ ? last : 0xFFFF;
          _mm512_store_si512(to, _mm512_maskz_loadu_epi32(lanes, at));
        }
      }
    }
  }

  // At least one: a product over nothing is zero.
  int64_t chunks() const { return std::max<int64_t>(1, (steps_ + kChunkSteps - 1) / kChunkSteps); }
  TileChunk chunk(int64_t n) const {
    const int64_t begin = steps_ * n / chunks();
    return {begin, steps_ * (n + 1) / chunks() - begin};
  }
  int64_t pairs() const { return pairs_; }
  const uint32_t* at(const TileChunk& chunk, int64_t pair) const { return packed_.get() + offset(chunk, pair); }

 private:
  static constexpr int64_t kChunkSteps = 8;

  int64_t offset(const TileChunk& chunk, int64_t pair) const {
    return (chunk.begin * pairs_ + pair * chunk.steps) * kTilePairSize;
  }

  int64_t pairs_ = 0, steps_ = 0;
  Scratch<uint32_t> packed_;
};

template <>
class Matmul<BFloat16Engine> {
 public:
  using E = BFloat16Engine;
  using Acc = float;
  using Operand = uint32_t;
  static constexpr int64_t kColumns = kTileColumns;
  static constexpr int64_t kRows = 384;

  Matmul(const MatrixView& a, const Panels<E>& b)
      : b_(b),
        pass_operands_(operands_per_pass(b.operands(), kOperands)),
        passes_(std::max<int64_t>(1, (b.operands() + pass_operands_ - 1) / pass_operands_)),
        block_rows_(std::min(kRows, round_up(a.rows, kTilePairRows))),
        left_(a, block_rows_, pass_operands()),
        tiles_(block_rows_, pass_operands()),
        sums_((passes_ > 1 ? std::min(kPanels, b.count()) : 1) * block_rows_ * kColumns) {}

  int64_t pass_operands() const { return std::min(pass_operands_, b_.operands()); }

  template <class OnTile>
  void run(Range rows, Range panels, OnTile on_tile) {
    run(rows, panels, [](int64_t, int64_t, Range, const Operand*, int64_t) {}, on_tile);
  }

  template <class OnRows, class OnTile>
  void run(Range rows, Range panels, OnRows on_rows, OnTile on_tile) {
    const int64_t blocks = (rows.size() + kRows - 1) / kRows;
    const int64_t height = round_up((rows.size() + blocks - 1) / std::max<int64_t>(1, blocks), kTilePairRows);
    for (int64_t row = rows.begin; row < rows.end; row += height) {
      const Range block{row, std::min(row + height, rows.end)};
      int64_t panel = panels.begin;
      do {
        run_block(block, {panel, std::min(panel + kPanels, panels.end)}, panel == panels.begin, on_rows, on_tile);
        panel += kPanels;
      } while (panel < panels.end);
    }
  }

 private:
  static constexpr int64_t kOperands = 384;  // at most, of one pass over a row block
  static constexpr int64_t kPanels = 24;     // at most, whose sums are kept between passes

  template <class OnRows, class OnTile>
  void run_block(Range rows, Range panels, bool first, OnRows& on_rows, OnTile& on_tile) {
    for (int64_t pass = 0; pass < passes_; ++pass) {
      const Range operands{pass * pass_operands_, std::min((pass + 1) * pass_operands_, b_.operands())};
      const Operand* a = left_.load(rows, operands);
      tiles_.load(a, left_.ld(), rows.size(), operands.size());
      if (first) on_rows(rows.begin, rows.size(), operands, a, left_.ld());
      for (int64_t panel = panels.begin; panel < panels.end; ++panel) {
        Acc* sums = sums_.get() + (passes_ > 1 ? (panel - panels.begin) * block_rows_ * kColumns : 0);
        const Operand* b = b_.at(panel) + operands.begin * b_.ld();
        for (int64_t n = 0; n < tiles_.chunks(); ++n) {
          const TileChunk chunk = tiles_.chunk(n);
          const bool last = n + 1 == tiles_.chunks();
          const Operand* next = last ? b_.at(std::min(panel + 1, panels.end - 1)) + operands.begin * b_.ld()
                                     : b + (chunk.begin + chunk.steps) * kTileOperands * b_.ld();
          const auto done = [&](int64_t row, Acc* values) {
            if (!last || pass + 1 < passes_) return;
            on_tile(rows.begin + row, std::min(kTilePairRows, rows.size() - row), panel * kColumns, b_.columns(panel),
                    values, kColumns);
          };
          multiply(chunk, b_.vectors(panel), b + chunk.begin * kTileOperands * b_.ld(), sums, pass > 0 || n > 0,
                   reinterpret_cast<const char*>(next), done);
        }
      }
    }
  }

  template <class Done>
  void multiply(const TileChunk& chunk, int64_t vectors, const Operand* b, Acc* sums, bool accumulate, const char* next,
                Done done) {
    const int64_t lines = (kStepLines + tiles_.pairs() - 1) / tiles_.pairs();
    for (int64_t pair = 0; pair < tiles_.pairs(); ++pair) {
      TileSession::use(kTileRows, kTileRows, kTileOperands);
      Acc* to = sums + pair * kTilePairRows * kColumns;
      const auto steps = vectors > 1 ? tile_steps<2> : tile_steps<1>;
      steps(chunk.steps, tiles_.at(chunk, pair), b, b_.ld(), to, accumulate, next, lines);
      next += lines * chunk.steps * kLine;
      done(pair * kTilePairRows, to);
    }
  }

  Panels<E> b_;
  int64_t pass_operands_, passes_, block_rows_;
  LeftRows<E> left_;
  TileRows tiles_;
  Scratch<Acc> sums_;  // (panels, block_rows, kColumns)
};

}  // namespace
}  // namespace seo_kernels::cpu

#endif
