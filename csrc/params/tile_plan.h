// Which key panels a query tile visits, and which of them need an element mask: made once per pattern and size.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "semantics/pattern.h"

namespace seo_kernels {

constexpr int64_t kPanel = 64;          // keys per panel: one word of mask bits
constexpr int64_t kMaxTileRows = 96;    // query rows per tile of the CPU's kernels
constexpr int64_t kTileRowStep = 12;    // balanced tiles have a multiple of this many rows
constexpr int64_t kRowsPerCounter = 4;  // tiles begin where a Philox counter does: see semantics/philox.h

// Panels (or tiles) [begin, end), all of them full or all of them in need of a mask.
struct PanelRun {
  int32_t begin, end;
  bool partial;
};

struct TilePlan {
  int64_t tile_rows, tiles, heads;  // heads: 1 when all heads are alike
  std::vector<int64_t> offsets;     // (heads * tiles + 1) into runs
  std::vector<PanelRun> runs;
  std::vector<int64_t> panels;  // (heads * tiles): panels visited

  int64_t index(int64_t head, int64_t tile) const { return (heads == 1 ? 0 : head) * tiles + tile; }
};

struct PatternKey {
  std::string text;  // the pattern's postfix program, layout hash included
  int64_t heads, query_length, key_length, query_offset;
  int64_t most_rows = kMaxTileRows;  // per tile
  int64_t row_step = kTileRowStep;   // of tiles that are balanced; most_rows: they are all as large as can be

  bool operator==(const PatternKey&) const = default;
};

// A parsed pattern with a copy of its layout, and the plan for one size.
struct PlannedPattern {
  PatternProgram program;
  std::vector<uint8_t> layout;
  TilePlan plan;
};

using LayoutReader = std::function<std::vector<uint8_t>()>;

// Parses, plans, and keeps the last few results. The layout is read only where there is no plan yet. Throws
// std::invalid_argument on a malformed program.
std::shared_ptr<const PlannedPattern> planned_pattern(const PatternKey& key, const LayoutReader& layout);

// The plan by key panels, (heads * panels): which query tiles visit a panel.
struct PanelPlan {
  int64_t panels;
  std::vector<int64_t> offsets;  // (heads * panels + 1) into runs
  std::vector<PanelRun> runs;    // of tiles
  std::vector<int64_t> tiles;    // (heads * panels): tiles that visit
};

PanelPlan by_panels(const TilePlan& plan, int64_t key_length);

// Of the panels of one key head, or, where heads of the plan differ, of all key heads: the tiles that visit, of all
// query heads that share one.
std::vector<int64_t> work_of_panels(const PanelPlan& turned, int64_t heads, int64_t key_heads);

// Places in `work` from the most work to the least; where it is the same, in their order.
std::vector<int32_t> longest_first(const std::vector<int64_t>& work);

}  // namespace seo_kernels
