// Which key panels a query tile visits, and which of them need an element mask: made once per pattern and size.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "semantics/pattern.h"

namespace seo_kernels {

constexpr int64_t kPanel = 64;          // keys per panel: one word of mask bits
constexpr int64_t kMaxTileRows = 96;    // query rows per tile
constexpr int64_t kTileRowStep = 12;    // balanced tiles have a multiple of this many rows
constexpr int64_t kRowsPerCounter = 4;  // tiles begin where a Philox counter does: see semantics/philox.h

// Panels [begin, end), all of them full or all of them in need of a mask.
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

  bool operator==(const PatternKey&) const = default;
};

// A parsed pattern with a copy of its layout, and the plan for one size.
struct PlannedPattern {
  PatternProgram program;
  std::vector<uint8_t> layout;
  TilePlan plan;
};

// Parses, plans, and keeps the last few results. Throws std::invalid_argument on a malformed program.
std::shared_ptr<const PlannedPattern> planned_pattern(const PatternKey& key, const uint8_t* layout,
                                                      int64_t layout_size);

}  // namespace seo_kernels
